"""Kernels that are right on ordinary data and wrong on tokens of zeros, groups of zeros, or beyond a static scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from w8a8_bench.bench.comparison_run import run_comparison
from w8a8_bench.correctness.quantize import quantize
from w8a8_bench.environment import detect
from w8a8_bench.kernel import Launches, PreparedKernel, Status, Support
from w8a8_bench.problem import BLOCK, Activations, ActScale, Azp, GemmShape, Scaling
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing import host
from w8a8_bench.timing.settings import Settings, StopRule

CPU = detect.resolve_device("cpu")
SETTINGS = Settings(stop=StopRule(min_blocks=1, max_blocks=1))
FP8, INT8, BLOCKWISE = "own_fp8_fp8_bf16_scaled_mm", "own_i8_i8_bf16_scaled_mm", "own_fp8_fp8_bf16_scaled_mm_blockwise"
Quantize = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]
"""Codes, still in fp32, and scales of x [m,k]; a static scale is given."""


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(host, "SAMPLE_S", 1e-4)


class Own:
    """Quantizes as it is told, and multiplies in fp32."""

    def __init__(self, name: str, quantizes: Quantize) -> None:
        self.name, self.quantizes = name, quantizes

    def supports(self, problem, device):
        return Support.yes()

    def prepare(self, problem, device):
        def bind(operands: Operands) -> Launches:
            b, scale_b = operands.b.float(), operands.scale_b
            if scale_b.shape[0] > 1:
                scale_b = wide(wide(scale_b, 0, b.shape[0]), 1, b.shape[1])

            def launch() -> None:
                static = operands.scale_a if problem.activations is Activations.STATIC else None
                codes, scale = self.quantizes(operands.a.float(), static)
                if scale.shape[1] > 1:
                    operands.out.copy_((codes * wide(scale, 1, codes.shape[1])) @ (b * scale_b))
                else:
                    operands.out.copy_((codes @ b) * scale * scale_b)

            return Launches(launch)

        return PreparedKernel(bind)


def wide(scale: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    return scale.repeat_interleave(BLOCK, dim=dim).narrow(dim, 0, size)


def run(name: str, quantizes: Quantize, scheme: str, activations: Activations, shape: GemmShape):
    parsed = KernelName.parse(name)
    problem = parsed.problem(shape, parsed.format, Scaling.parse(scheme), activations)
    comparison = Comparison(0, LabelledShape(shape), (Cell(name, problem),))
    (record,), _ = run_comparison(comparison, CPU, SETTINGS, kernels=lambda name: Own(name, quantizes))
    return record


def to_fp8(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def by_reference(fmt: Format, activation: ActScale) -> Quantize:
    def quantizes(x, static):
        found = quantize(x.bfloat16(), fmt, activation, Azp.NONE)
        return found.q.float(), found.scale

    return quantizes


def without_floor(x, static):
    scale = x.abs().amax(1, keepdim=True) / x.new_tensor(448.0)
    return to_fp8(x / scale), scale


def without_floor_of_groups(x, static):
    groups = x.view(len(x), -1, BLOCK)
    scale = groups.abs().amax(2) / x.new_tensor(448.0)
    return to_fp8((groups / scale.unsqueeze(2)).view_as(x)), scale


TOKEN, GROUP, TENSOR = "channel-w-token-a", "block-w-group-a", "tensor-w-tensor-a"
SHAPE, DEEP = GemmShape(m=17, n=32, k=48), GemmShape(m=17, n=256, k=256)


@pytest.mark.parametrize(
    ("name", "scheme", "quantizes", "shape"),
    [
        (FP8, TOKEN, by_reference(Format.FP8, ActScale.TOKEN), SHAPE),
        (INT8, TOKEN, by_reference(Format.INT8, ActScale.TOKEN), SHAPE),
        (BLOCKWISE, GROUP, by_reference(Format.FP8, ActScale.GROUP), DEEP),
    ],
)
def test_a_kernel_that_quantizes_as_the_reference_is_right(name, scheme, quantizes, shape):
    record = run(name, quantizes, scheme, Activations.DYNAMIC, shape)
    assert record.status is Status.OK, record.reason


def test_a_token_of_zeros_is_found_without_a_floor_under_its_scale():
    record = run(FP8, without_floor, TOKEN, Activations.DYNAMIC, SHAPE)
    assert record.status is Status.INCORRECT
    assert "(where A is all zeros), 32 of them NaN" in record.reason
    assert "first at row 16, column 0: got nan, expected 0" in record.reason


def test_a_group_of_zeros_is_found_without_a_floor_under_its_scale():
    record = run(BLOCKWISE, without_floor_of_groups, GROUP, Activations.DYNAMIC, DEEP)
    assert record.status is Status.INCORRECT
    assert "first at row 8, column 0: got nan" in record.reason
    record = run(BLOCKWISE, without_floor_of_groups, GROUP, Activations.DYNAMIC, GemmShape(m=1, n=256, k=256))
    assert record.status is Status.INCORRECT
    assert "(where the first 128 elements of a row of A are zeros)" in record.reason


def saturating(x, static):
    return to_fp8(x / static), static


def unsaturated(x, static):
    y = x / static
    return torch.where(y.abs() > 464, torch.nan, to_fp8(y)), static


def wrapping(x, static):
    return (torch.round(x / static) + 128) % 256 - 128, static


def half_up(x, static):
    return torch.floor(x / static + 0.5).clamp(-128, 127), static


def of_its_own(x, static):
    scale = (x.abs().max() / 448).view(1, 1)
    return to_fp8(x / scale), scale


LARGE = GemmShape(m=64, n=64, k=512)


@pytest.mark.parametrize(
    ("name", "quantizes", "says"),
    [
        (FP8, unsaturated, "(where A leaves the range of its static scale: codes beyond 448 must saturate)"),
        (INT8, wrapping, "(the answer if codes beyond int8 wrap around instead of saturating)"),
        (FP8, of_its_own, "elements wrong"),
    ],
)
def test_values_outside_a_static_scale_must_saturate(name, quantizes, says):
    record = run(name, quantizes, TENSOR, Activations.STATIC, LARGE)
    assert record.status is Status.INCORRECT
    assert says in record.reason


def by_its_own(per_token: bool, rounds: Callable[[torch.Tensor], torch.Tensor]) -> Quantize:
    def quantizes(x, static):
        largest = x.abs().amax(1, keepdim=True) if per_token else x.abs().max().view(1, 1)
        scale = largest / 127
        scale = scale.masked_fill(scale == 0, 1.0)
        return rounds(x / scale).clamp(-128, 127), scale

    return quantizes


def up(quotient):
    return torch.floor(quotient + 0.5)


@pytest.mark.parametrize("shape", [GemmShape(m=1, n=64, k=4096), GemmShape(m=4, n=64, k=512), LARGE], ids=str)
@pytest.mark.parametrize(
    ("per_token", "scheme", "activations"),
    [(None, TENSOR, Activations.STATIC), (True, TOKEN, Activations.DYNAMIC), (False, TENSOR, Activations.DYNAMIC)],
)
def test_rounding_half_up_is_found_and_named(per_token, scheme, activations, shape):
    wrong = half_up if per_token is None else by_its_own(per_token, up)
    record = run(INT8, wrong, scheme, activations, shape)
    assert record.status is Status.INCORRECT
    assert "(the answer if ties are rounded up)" in record.reason
    right = by_reference_or_static(Format.INT8) if per_token is None else by_its_own(per_token, torch.round)
    record = run(INT8, right, scheme, activations, shape)
    assert record.status is Status.OK, record.reason


def test_quotients_that_are_cut_off_are_named():
    record = run(INT8, by_its_own(True, torch.trunc), TOKEN, Activations.DYNAMIC, LARGE)
    assert "(the answer if A / scale is cut off and not rounded)" in record.reason


def by_reference_or_static(fmt: Format) -> Quantize:
    def quantizes(x, static):
        if static is not None:
            return torch.round(x / static).clamp(-128, 127), static
        return by_reference(fmt, ActScale.TOKEN)(x, None)

    return quantizes


def test_a_static_kernel_that_saturates_is_right():
    record = run(FP8, saturating, TENSOR, Activations.STATIC, LARGE)
    assert record.status is Status.OK, record.reason


def test_a_scale_that_is_kept_from_the_first_call_is_found():
    kept = []

    def stale(x, static):
        kept.append(by_reference(Format.FP8, ActScale.TOKEN)(x, None)[1])
        return to_fp8(x / kept[0]), kept[0]

    record = run(FP8, stale, TOKEN, Activations.DYNAMIC, SHAPE)
    assert record.status is Status.INCORRECT
