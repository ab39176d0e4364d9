#!/bin/sh
# This project's kernels beside every library's best on shapes that no table holds:
# `scripts/measure_unseen.sh development|validation FILE.jsonl [MORE OPTIONS]`. FILE_azp.jsonl gets zero points per
# tensor, which go with an activation scale per tensor. With --resume both are made in pieces. What is not installed is
# a row that says so. scripts/judge_unseen.py says how the kernels stand.
set -eu
here=$(dirname "$0")
shapes="$here/$1.csv"
out=$2
shift 2
PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
"${PYTHON:-python3}" -m w8a8_bench csv_bench --csv "$shapes" --dtype fp8 int8 --no-report --out "$out" "$@" \
    --schemes tensor-w-tensor-a channel-w-token-a block-w-group-a --kernels \
    pytorch_bf16_bf16_bf16_matmul-no-scales \
    pytorch_fp8_fp8_bf16_scaled_mm_fast_accum \
    cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum \
    vllm_fp8_fp8_bf16_scaled_mm \
    sglang_fp8_fp8_bf16_scaled_mm \
    cutlass_fp8_fp8_bf16_scaled_mm \
    triton_fp8_fp8_bf16_scaled_mm \
    pytorch_fp8_fp8_bf16_scaled_mm_blockwise \
    vllm_fp8_fp8_bf16_scaled_mm_blockwise \
    sglang_fp8_fp8_bf16_scaled_mm_blockwise \
    deepgemm_fp8_fp8_bf16_scaled_mm_blockwise \
    cutlass_fp8_fp8_bf16_scaled_mm_blockwise \
    triton_fp8_fp8_bf16_scaled_mm_blockwise \
    cublaslt_i8_i8_bf16_scaled_mm \
    vllm_i8_i8_bf16_scaled_mm \
    sglang_i8_i8_bf16_scaled_mm \
    cutlass_i8_i8_bf16_scaled_mm \
    triton_i8_i8_bf16_scaled_mm \
    vllm_i8_i8_bf16_scaled_mm_azp_pt \
    cutlass_i8_i8_bf16_scaled_mm_azp_pt
"${PYTHON:-python3}" -m w8a8_bench csv_bench --csv "$shapes" --dtype int8 --no-report --out "${out%.jsonl}_azp.jsonl" \
    "$@" --schemes tensor-w-tensor-a --kernels \
    pytorch_bf16_bf16_bf16_matmul-no-scales \
    vllm_i8_i8_bf16_scaled_mm_azp \
    cutlass_i8_i8_bf16_scaled_mm_azp
