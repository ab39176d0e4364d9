"""Triton's kernels compiled for GPUs that are not here: the right tensor-core instruction, no spills, IEEE division."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")

from triton_compiler import Built, build  # noqa: E402

from w8a8_bench.correctness.quantize import torch_dtype  # noqa: E402
from w8a8_bench.kernels.triton import (  # noqa: E402
    TritonConfig,
    configs,
    plan_apply_static,
    plan_blockwise_mm,
    plan_quantize,
    plan_scaled_mm,
)
from w8a8_bench.kernels.triton.launch import Call  # noqa: E402
from w8a8_bench.problem import ActScale, Azp, GemmShape, ceil_div  # noqa: E402
from w8a8_bench.problem.formats import Format  # noqa: E402

INT8, FP8 = Format.INT8, Format.FP8

SMALL = TritonConfig(tile_m=64, tile_n=128, tile_k=128)
LARGE = TritonConfig(tile_m=128, tile_n=256, tile_k=128, warps=8, persistent=True, descriptors=True)
LARGE_BLOCKWISE = TritonConfig(tile_m=128, tile_n=128, tile_k=128, warps=8, persistent=True, descriptors=True)
FEW_TOKENS = TritonConfig(tile_m=16, tile_n=64, tile_k=128, stages=6, split_k=4, swap=True, descriptors=True)
WARPS = TritonConfig(tile_m=64, tile_n=128, tile_k=64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def gemm(fmt: Format, config: TritonConfig, *, blockwise: bool = False, shape=(4096, 4096, 4096)) -> Call:
    """The launch with the heaviest epilogue that the format has. Tensors without memory stand for the operands."""
    m, n, k = shape
    dtype = torch_dtype(fmt)
    a, b = made(m, k, dtype=dtype), made(n, k, dtype=dtype).t()
    if blockwise:
        scales = made(m, ceil_div(k, 128)), made(ceil_div(k, 128), ceil_div(n, 128))
        return plan_blockwise_mm(a, b, *scales, torch.bfloat16, out=made(m, n, dtype=torch.bfloat16), config=config)[0]
    azp, azp_adj = made(m, dtype=torch.int32), made(n, dtype=torch.int32)
    call, _ = plan_scaled_mm(
        a,
        b,
        made(m),
        made(n),
        torch.bfloat16,
        made(n, dtype=torch.bfloat16),
        azp_adj if fmt is INT8 else None,
        azp if fmt is INT8 else None,
        out=made(m, n, dtype=torch.bfloat16),
        config=config,
    )
    return call


def made(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(sizes, dtype=dtype)


def limits(built: Built, config: TritonConfig, fmt: Format, capability: int, *, blockwise: bool = False) -> None:
    """What is legal does not spill and fits."""
    shape = GemmShape(m=4096, n=4096, k=4096)
    target = configs.Gemm(
        shape=shape, format=fmt, blockwise=blockwise, capability=divmod(capability, 10), sm_count=132, aligned=True
    )
    assert configs.legal(config, target)
    assert built.stack_bytes == 0, "spills"
    assert built.shared_bytes <= configs.shared_bytes(config) <= configs.shared_limit(divmod(capability, 10))


WGMMA = {INT8: r"wgmma\.mma_async\S*\.s8\.s8", FP8: r"wgmma\.mma_async\S*\.e4m3\.e4m3"}
MMA = {INT8: r"mma\.sync\S*\.s8\.s8", FP8: r"mma\.sync\S*\.e4m3\.e4m3"}


@pytest.mark.parametrize("config", [SMALL, LARGE, FEW_TOKENS], ids=["small", "large", "few tokens"])
@pytest.mark.parametrize("fmt", [INT8, FP8], ids=lambda fmt: fmt.value)
def test_hopper_multiplies_by_warpgroups_and_spills_nothing(fmt, config, tmp_path):
    built = build(gemm(fmt, config), 90, tmp_path)
    assert built.count(WGMMA[fmt])
    assert bool(built.count(r"cp\.async\.bulk\.tensor")) is config.descriptors
    limits(built, config, fmt, 90)


@pytest.mark.parametrize("config", [SMALL, LARGE_BLOCKWISE, FEW_TOKENS], ids=["small", "large", "few tokens"])
def test_blockwise_on_hopper_multiplies_by_warpgroups_and_spills_nothing(config, tmp_path):
    built = build(gemm(FP8, config, blockwise=True), 90, tmp_path)
    assert built.count(WGMMA[FP8])
    limits(built, config, FP8, 90, blockwise=True)


@pytest.mark.parametrize(
    ("fmt", "capability", "blockwise"),
    [(INT8, 80, False), (INT8, 89, False), (FP8, 89, False), (FP8, 89, True)],
    ids=["int8 on sm_80", "int8 on sm_89", "fp8 on sm_89", "blockwise on sm_89"],
)
def test_gpus_before_hopper_multiply_by_warps_and_spill_nothing(fmt, capability, blockwise, tmp_path):
    config = replace(WARPS, tile_n=64, tile_k=128) if blockwise else WARPS
    built = build(gemm(fmt, config, blockwise=blockwise), capability, tmp_path)
    assert built.count(MMA[fmt])
    limits(built, config, fmt, capability, blockwise=blockwise)


@pytest.mark.parametrize(("fmt", "blockwise"), [(INT8, False), (FP8, False), (FP8, True)])
def test_blackwell_multiplies_by_its_tensor_cores_and_spills_nothing(fmt, blockwise, tmp_path):
    config = replace(SMALL, descriptors=True)
    built = build(gemm(fmt, config, blockwise=blockwise), 100, tmp_path)
    # Before Triton 3.8, int8 still goes warp by warp there.
    assert built.count(r"tcgen05\.mma") or (fmt is INT8 and built.count(MMA[INT8]))
    limits(built, config, fmt, 100, blockwise=blockwise)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 70), (33, 1, 129)])
@pytest.mark.parametrize("fmt", [INT8, FP8], ids=lambda fmt: fmt.value)
def test_sizes_of_one_and_odd_sizes_compile(fmt, shape, tmp_path):
    m, n, k = shape
    problem = configs.Gemm(
        shape=GemmShape(m=m, n=n, k=k), format=fmt, blockwise=False, capability=(9, 0), sm_count=132, aligned=False
    )
    config = configs.candidates(problem)[0]
    built = build(gemm(fmt, config, shape=shape), 90, tmp_path)
    assert built.count(WGMMA[fmt])


def test_a_split_is_announced_after_it_is_written_and_read_past_the_l1(tmp_path):
    ptx = build(gemm(FP8, FEW_TOKENS), 90, tmp_path).ptx
    announced = ptx.index("atom.global.gpu.acq_rel.add")
    written = ptx.rindex("st.global", 0, announced)
    assert "bar.sync" in ptx[written:announced]
    after = ptx[announced:]
    assert after.index("bar.sync") < after.index("ld.global.cg")
    assert after.count("ld.global.cg") % FEW_TOKENS.split_k == 0
    assert not re.search(r"(atom|red)\S*\.f(16|32)", ptx)


QUANTIZATIONS = {
    "fp8 per tensor": (FP8, ActScale.TENSOR, Azp.NONE),
    "fp8 per token": (FP8, ActScale.TOKEN, Azp.NONE),
    "fp8 per group": (FP8, ActScale.GROUP, Azp.NONE),
    "int8 with zero points": (INT8, ActScale.TOKEN, Azp.TOKEN),
}


@pytest.mark.parametrize("k", [4096, 14336])
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_quantization_divides_as_ieee_and_reads_whole_vectors(kind, k, tmp_path):
    fmt, activation, azp = QUANTIZATIONS[kind]
    calls, _ = plan_quantize(made(64, k, dtype=torch.bfloat16), fmt, activation, azp)
    built = build(on_hopper(calls[-1]), 90, tmp_path)
    exact(built)
    assert built.count(r"div\.rn\.f32") <= 4  # of scales: elements are divided through the reciprocal
    assert built.count(r"fma\.rn\.f32") >= 2 * 8
    assert built.count(r"ld\.global\S*\.v4\.b32")
    if fmt is FP8:
        assert built.count(r"cvt\.rn\.satfinite\.e4m3x2\.f32")


@pytest.mark.parametrize("fmt", [INT8, FP8], ids=lambda fmt: fmt.value)
def test_static_quantization_divides_as_ieee(fmt, tmp_path):
    call, _ = plan_apply_static(made(64, 4096, dtype=torch.bfloat16), torch.ones(1, 1), None, fmt)
    exact(build(on_hopper(call), 90, tmp_path))


def test_ada_casts_only_what_is_an_fp8_number_already(tmp_path):
    """Triton casts there through fp16, until 3.9: of a number that both hold, either way gives the same."""
    (call,), _ = plan_quantize(made(64, 4096, dtype=torch.bfloat16), FP8, ActScale.TOKEN)
    call = replace(call, constants={**call.constants, "FUSED": True})
    built = build(call, 89, tmp_path)
    exact(built)
    assert not call.constants["ONE_CAST"]
    assert built.count("0xFFF00000|-1048576")


def on_hopper(call: Call) -> Call:
    """The launch as it is made there."""
    there = {"ONE_CAST": True, "FUSED": True, "OVERLAP": True, "launch_pdl": True}
    return replace(call, constants={name: there.get(name, value) for name, value in call.constants.items()})


def exact(built: Built) -> None:
    assert built.count(r"div\.rn\.f32")
    assert not built.count(r"div\.full|div\.approx|rcp\.approx|\.ftz")
    assert built.stack_bytes == 0


def test_the_second_kernel_of_a_tensors_scale_begins_while_the_first_ends(tmp_path):
    calls, _ = plan_quantize(made(64, 4096, dtype=torch.bfloat16), FP8, ActScale.TENSOR)
    first, second = (build(on_hopper(call), 90, tmp_path).ptx for call in calls)
    assert "griddepcontrol.launch_dependents" in first
    assert second.index("ld.global") < second.index("griddepcontrol.wait")
    older = [build(call, 80, tmp_path).ptx for call in plan_quantize(made(64, 4096), INT8, ActScale.TENSOR)[0]]
    assert not any("griddepcontrol" in ptx for ptx in older)
