#!/bin/sh
# The four layers of Llama-3.1-8B with every library that is installed: bf16, FP8 and INT8 with one scale, with scales per
# channel and token, and FP8 by blocks. `scripts/measure_model.sh FILE.jsonl [MORE OPTIONS]` on a GPU; what is not
# installed is a row that says so. scripts/peers_table.py makes the README's tables of the records.
set -eu
here=$(dirname "$0")
out=$1
shift
PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m w8a8_bench model_bench \
    --models meta-llama/Llama-3.1-8B-Instruct --batch-sizes 1 16 64 128 512 2048 8192 --dtype fp8 int8 \
    --schemes tensor-w-tensor-a channel-w-token-a block-w-group-a --out "$out" "$@" --kernels \
    pytorch_bf16_bf16_bf16_matmul-no-scales \
    pytorch_fp8_fp8_bf16_scaled_mm_fast_accum \
    cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum \
    vllm_fp8_fp8_bf16_scaled_mm \
    sglang_fp8_fp8_bf16_scaled_mm \
    cutlass_fp8_fp8_bf16_scaled_mm \
    triton_fp8_fp8_bf16_scaled_mm \
    pytorch_i8_i8_bf16_scaled_mm \
    cublaslt_i8_i8_bf16_scaled_mm \
    vllm_i8_i8_bf16_scaled_mm \
    sglang_i8_i8_bf16_scaled_mm \
    cutlass_i8_i8_bf16_scaled_mm \
    triton_i8_i8_bf16_scaled_mm \
    pytorch_fp8_fp8_bf16_scaled_mm_blockwise \
    cublaslt_fp8_fp8_bf16_scaled_mm_blockwise \
    vllm_fp8_fp8_bf16_scaled_mm_blockwise \
    sglang_fp8_fp8_bf16_scaled_mm_blockwise \
    deepgemm_fp8_fp8_bf16_scaled_mm_blockwise \
    cutlass_fp8_fp8_bf16_scaled_mm_blockwise \
    triton_fp8_fp8_bf16_scaled_mm_blockwise
