#!/bin/sh
# The libraries side by side on the 35 shapes of peers.csv: `scripts/measure_peers.sh FILE.jsonl [MORE OPTIONS]`.
# One kernel of each library for each way of scaling, and of those that sum FP8 in two ways both. What is not installed
# is a row that says so. scripts/peers_table.py makes the README's table of the records.
set -eu
here=$(dirname "$0")
out=$1
shift
PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m w8a8_bench csv_bench \
    --csv "$here/peers.csv" --dtype fp8 int8 --out "$out" "$@" --kernels \
    pytorch_bf16_bf16_bf16_matmul-no-scales \
    pytorch_fp8_fp8_bf16_scaled_mm \
    pytorch_fp8_fp8_bf16_scaled_mm_fast_accum \
    cublaslt_fp8_fp8_bf16_scaled_mm \
    cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum \
    vllm_fp8_fp8_bf16_scaled_mm \
    sglang_fp8_fp8_bf16_scaled_mm \
    cutlass_fp8_fp8_bf16_scaled_mm \
    pytorch_fp8_fp8_bf16_scaled_mm_blockwise \
    cublaslt_fp8_fp8_bf16_scaled_mm_blockwise \
    vllm_fp8_fp8_bf16_scaled_mm_blockwise \
    sglang_fp8_fp8_bf16_scaled_mm_blockwise \
    deepgemm_fp8_fp8_bf16_scaled_mm_blockwise \
    cutlass_fp8_fp8_fp16_scaled_mm_blockwise \
    triton_fp8_fp8_fp16_scaled_mm_blockwise \
    pytorch_i8_i8_bf16_scaled_mm \
    cublaslt_i8_i8_bf16_scaled_mm \
    vllm_i8_i8_bf16_scaled_mm \
    sglang_i8_i8_bf16_scaled_mm \
    cutlass_i8_i8_bf16_scaled_mm
