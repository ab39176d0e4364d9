"""The Triton provider's answers, and the functions' refusals, which need no GPU."""

from __future__ import annotations

import pytest
import torch
from copies import replace
from made_devices import CPU, H200

from w8a8_bench.environment.device import Device
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, ActScale, Azp, GemmShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import triton as provider
from w8a8_bench.providers.contract import support_of

SHAPE = GemmShape(m=3, n=5, k=7)
FP8_NAME, INT8_NAME = "triton_fp8_fp8_bf16_scaled_mm", "triton_i8_i8_bf16_scaled_mm"

needs_triton = pytest.mark.skipif(not provider.IS_INSTALLED, reason="triton is not installed")


def reason(name: str, device: Device, scheme=PER_TENSOR, activations=Activations.PREQUANTIZED) -> str:
    problem = KernelName.parse(name).problem(SHAPE, Format.FP8, scheme, activations)
    return support_of(provider.kernel(name), problem, device).reason


def on(*capability: int) -> Device:
    return replace(H200, name="another GPU", capability=capability)


@needs_triton
@pytest.mark.parametrize(
    ("name", "device", "scheme", "says"),
    [
        (FP8_NAME, H200, PER_TENSOR, ""),
        (FP8_NAME, on(8, 9), PER_TENSOR, ""),
        (FP8_NAME, on(8, 6), PER_TENSOR, "8.6"),
        (f"{FP8_NAME}_blockwise", on(8, 0), BLOCKWISE, "8.9"),
        (INT8_NAME, on(8, 0), PER_TENSOR, ""),
        (INT8_NAME, on(7, 5), PER_TENSOR, "7.5"),
        (FP8_NAME, CPU, PER_TENSOR, "NVIDIA GPU"),
        (FP8_NAME, H200, BLOCKWISE, "*_blockwise"),
        (f"{FP8_NAME}_blockwise", H200, PER_TENSOR, "tensor-w-tensor-a"),
        (INT8_NAME, H200, BLOCKWISE, "fp8 only"),
    ],
)
def test_limits_are_refused_with_the_value_in_the_reason(name, device, scheme, says):
    assert says in reason(name, device, scheme)
    assert bool(reason(name, device, scheme)) is bool(says)


@needs_triton
@pytest.mark.parametrize("variant", ["", "_bias", "_azp", "_azp_bias", "_azp_pt", "_azp_pt_bias"])
def test_every_scheme_and_kind_of_activations_that_has_a_meaning_is_taken(variant):
    name = KernelName.parse(INT8_NAME + variant)
    taken = 0
    for scheme in SCHEMES[:4]:
        for activations in Activations:
            problem = name.problem(SHAPE, Format.INT8, scheme, activations)
            support = support_of(provider.kernel(name.text), problem, H200)
            assert support.reason == (problem.why_illegal() or "")
            taken += bool(support)
    assert taken >= 2


def test_without_triton_the_reason_says_so(monkeypatch):
    monkeypatch.setattr(provider, "IS_INSTALLED", False)
    assert reason(FP8_NAME, H200) == "triton is not installed"
    assert "GPU" in reason(FP8_NAME, CPU)


def gemm_arguments(fmt=torch.int8, m=20, n=40, k=64, out=torch.bfloat16):
    a, weight = torch.zeros(m, k).to(fmt), torch.zeros(n, k).to(fmt)
    return [a, weight.t(), torch.ones(m, 1), torch.ones(1, n), out]


@needs_triton
@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (0, torch.zeros(20, 64), "float32"),
        (0, torch.zeros(20, 63, dtype=torch.int8), r"\[20, 63\]"),
        (0, torch.zeros(64, 20, dtype=torch.int8).t(), "row-major"),
        (1, torch.zeros(64, 40, dtype=torch.int8), "column-major"),
        (1, torch.zeros(40, 64).to(torch.float8_e4m3fn).t(), "float8_e4m3fn"),
        (2, torch.ones(19, 1), "1 or 20"),
        (2, torch.ones(20, 2)[:, :1], "contiguous"),
        (3, torch.ones(1, 41), "1 or 40"),
        (3, torch.ones(1, 40).double(), "float64"),
        (4, torch.int32, "out_dtype"),
    ],
)
def test_operands_that_do_not_fit_are_refused_before_anything_runs(position, value, says):
    from w8a8_bench.kernels.triton import plan_scaled_mm

    arguments = gemm_arguments()
    plan_scaled_mm(*arguments)
    arguments[position] = value
    with pytest.raises(ValueError, match=says):
        plan_scaled_mm(*arguments)


@needs_triton
def test_optional_operands_are_checked_too():
    from w8a8_bench.kernels.triton import TritonConfig, plan_blockwise_mm, plan_scaled_mm

    arguments = gemm_arguments()
    split = TritonConfig(tile_m=32, tile_n=64, tile_k=32, split_k=2)
    for keywords, says in (
        ({"bias": torch.zeros(40)}, "bias"),
        ({"bias": torch.zeros(41, dtype=torch.bfloat16)}, "40 elements"),
        ({"azp_adj": torch.zeros(40)}, "azp_adj"),
        ({"azp_adj": torch.zeros(40, dtype=torch.int32), "azp": torch.zeros(1, dtype=torch.int32)}, "20 elements"),
        ({"out": torch.zeros(20, 40)}, "out"),
        ({"out": torch.zeros(40, 20, dtype=torch.bfloat16).t()}, "row-major"),
        ({"config": replace(split, tile_m=7)}, "tile_m=7"),
        ({"config": split, "workspace": _workspace()}, "workspace"),
    ):
        with pytest.raises(ValueError, match=says):
            plan_scaled_mm(*arguments, **keywords)
    with pytest.raises(ValueError, match="azp_adj"):
        plan_scaled_mm(*gemm_arguments(torch.float8_e4m3fn), azp_adj=torch.zeros(40, dtype=torch.int32))
    with pytest.raises(ValueError, match="blockwise"):
        plan_blockwise_mm(*arguments)
    with pytest.raises(ValueError, match=r"\[20, 1\]"):
        plan_blockwise_mm(*gemm_arguments(torch.float8_e4m3fn)[:2], torch.ones(20, 2), torch.ones(1, 1), torch.float16)


def _workspace():
    from w8a8_bench.kernels.triton import Workspace

    return Workspace(torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32))


@needs_triton
def test_quantization_refuses_what_it_does_not_do():
    from w8a8_bench.kernels.triton import plan_apply_static, plan_quantize

    x = torch.zeros(4, 256, dtype=torch.bfloat16)
    for arguments, says in (
        ((x.to(torch.int8), Format.INT8, ActScale.TOKEN), "int8"),
        ((x.t(), Format.INT8, ActScale.TOKEN), "row-major"),
        ((x, Format.FP8, ActScale.TOKEN, Azp.TOKEN), "fp8"),
        ((x, Format.INT8, ActScale.TENSOR, Azp.TENSOR), "per tensor"),
    ):
        with pytest.raises(ValueError, match=says):
            plan_quantize(*arguments)
    with pytest.raises(ValueError, match="scale"):
        plan_apply_static(x, torch.ones(4, 1), None, Format.INT8)
    with pytest.raises(ValueError, match="zero point"):
        plan_apply_static(x, torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32), Format.FP8)


@needs_triton
def test_without_a_gpu_a_launch_says_what_it_needs():
    from w8a8_bench.kernels.triton import scaled_mm

    with pytest.raises(ValueError, match="NVIDIA GPU"):
        scaled_mm(*gemm_arguments())
