#!/bin/sh
# Scales per token and channel, zero points and bias on the 35 shapes of peers.csv, every library that has them:
# `scripts/measure_epilogues.sh FILE.jsonl [MORE OPTIONS]`. What is not installed is a row that says so. A zero point
# per tensor goes with an activation scale per tensor: that is a run of its own, into FILE_azp.jsonl.
set -eu
here=$(dirname "$0")
out=$1
shift
PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
"${PYTHON:-python3}" -m w8a8_bench csv_bench \
    --csv "$here/peers.csv" --dtype fp8 int8 --schemes channel-w-token-a --out "$out" "$@" --kernels \
    pytorch_fp8_fp8_bf16_scaled_mm_fast_accum \
    cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum \
    vllm_fp8_fp8_bf16_scaled_mm \
    sglang_fp8_fp8_bf16_scaled_mm \
    cutlass_fp8_fp8_bf16_scaled_mm \
    triton_fp8_fp8_bf16_scaled_mm \
    vllm_fp8_fp8_bf16_scaled_mm_bias \
    sglang_fp8_fp8_bf16_scaled_mm_bias \
    cutlass_fp8_fp8_bf16_scaled_mm_bias \
    pytorch_i8_i8_bf16_scaled_mm \
    cublaslt_i8_i8_bf16_scaled_mm \
    vllm_i8_i8_bf16_scaled_mm \
    sglang_i8_i8_bf16_scaled_mm \
    cutlass_i8_i8_bf16_scaled_mm \
    triton_i8_i8_bf16_scaled_mm \
    vllm_i8_i8_bf16_scaled_mm_bias \
    sglang_i8_i8_bf16_scaled_mm_bias \
    cutlass_i8_i8_bf16_scaled_mm_bias \
    vllm_i8_i8_bf16_scaled_mm_azp_pt \
    cutlass_i8_i8_bf16_scaled_mm_azp_pt \
    triton_i8_i8_bf16_scaled_mm_azp_pt
"${PYTHON:-python3}" -m w8a8_bench csv_bench \
    --csv "$here/peers.csv" --dtype int8 --schemes channel-w-tensor-a --out "${out%.jsonl}_azp.jsonl" "$@" --kernels \
    vllm_i8_i8_bf16_scaled_mm_azp \
    cutlass_i8_i8_bf16_scaled_mm_azp \
    cutlass_i8_i8_bf16_scaled_mm
