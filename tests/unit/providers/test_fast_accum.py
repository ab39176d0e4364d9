"""Whose FP8 sums the check lets be short: every kernel of the registry, and third parties'."""

from __future__ import annotations

import pytest
import torch

from w8a8_bench.kernel import sums_fast
from w8a8_bench.problem import PER_TENSOR, GemmShape, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import (
    cublaslt,
    cutlass,
    deepgemm,
    flashinfer,
    inductor,
    pytorch,
    registry,
    sglang,
    triton,
    vllm,
)
from w8a8_bench.providers.function import make_kernel

KERNELS = {
    "pytorch": pytorch.PyTorchKernel,
    "cutlass": cutlass.CutlassKernel,
    "triton": triton.TritonKernel,
    "cublaslt": cublaslt.CublasLtKernel,
    "vllm": vllm.VllmKernel,
    "sglang": sglang.SglangKernel,
    "deepgemm": deepgemm.DeepGemmKernel,
    "inductor": inductor.InductorKernel,
    "flashinfer": flashinfer.FlashInferKernel,
}
"""Made directly, since the library of some is not installed."""

SHORT = {
    *(
        f"{provider}_fp8_fp8_{out}_scaled_mm{suffix}"
        for provider in ("cutlass", "triton", "vllm", "sglang")
        for out in ("bf16", "fp16")
        for suffix in ("", "_bias")
    ),
    *(
        f"{provider}_fp8_fp8_{out}_scaled_mm_fast_accum"
        for provider in ("pytorch", "cublaslt")
        for out in ("bf16", "fp16")
    ),
    "inductor_fp8_fp8_bf16_scaled_mm_fast_accum",
}
FP8 = registry.names((Format.FP8,), on_request=True, of=registry.PROVIDERS)


@pytest.mark.parametrize("name", FP8)
def test_every_kernel_declares_how_it_sums(name: str) -> None:
    assert sums_fast(KERNELS[KernelName.parse(name).provider](name)) is (name in SHORT)


def test_the_names_that_sum_fast_are_all_in_the_registry() -> None:
    assert set(FP8) >= SHORT


class ThirdParty:
    def __init__(self, name: str, **attributes: object) -> None:
        self.name = name
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("kernel", "fast"),
    [
        (ThirdParty("acme_fp8_fp8_bf16_scaled_mm"), False),
        (ThirdParty("acme_fp8_fp8_bf16_scaled_mm", fast_accum=True), True),
        (ThirdParty("acme_fp8_fp8_bf16_scaled_mm", fast_accum=lambda: False), False),
        (ThirdParty("acme_fp8_fp8_bf16_scaled_mm_fast_accum"), True),
        (ThirdParty("cutlass_fp8_fp8_bf16_scaled_mm"), False),
    ],
)
def test_a_third_partys_kernel_is_held_to_fp32_unless_it_or_its_name_says_otherwise(kernel, fast) -> None:
    assert sums_fast(kernel) is fast


@pytest.mark.parametrize("fast", [False, True])
def test_a_function_sums_as_its_caller_says(fast: bool) -> None:
    problem = Problem.of(shape=GemmShape(m=1, n=16, k=16), format=Format.FP8, out=Format.BF16, scaling=PER_TENSOR)
    assert sums_fast(make_kernel(lambda a, b, scale_a, scale_b: torch.mm(a, b), problem, fast_accum=fast)) is fast
