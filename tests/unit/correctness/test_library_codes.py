"""Codes of a library's own quantization: judged by A, its GEMM by its codes, and no planted fault passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from w8a8_bench.bench.comparison_run import run_comparison
from w8a8_bench.correctness.library_codes import CodesVerdict, judge_codes
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.quantize import apply_static, quantize_activations
from w8a8_bench.environment import detect
from w8a8_bench.kernel import Codes, Launches, Status, Support
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape, Problem, Scaling
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.results.record import Record
from w8a8_bench.timing.settings import Settings, StopRule

SHAPE = GemmShape(m=20, n=48, k=272)
PER_TOKEN = Scaling.parse("channel-w-token-a")
I8, AZP, STATIC_AZP = (f"acme_i8_i8_bf16_scaled_mm{suffix}" for suffix in ("", "_azp_pt", "_azp"))
F8, BLOCK_F8 = "acme_fp8_fp8_bf16_scaled_mm", "acme_fp8_fp8_bf16_scaled_mm_blockwise"
DYNAMIC, STATIC = Activations.DYNAMIC, Activations.STATIC
CASES = [
    (I8, PER_TENSOR, DYNAMIC),
    (I8, PER_TOKEN, DYNAMIC),
    (AZP, PER_TOKEN, DYNAMIC),
    (F8, PER_TENSOR, DYNAMIC),
    (F8, PER_TOKEN, DYNAMIC),
    (BLOCK_F8, BLOCKWISE, DYNAMIC),
    (I8, PER_TENSOR, STATIC),
    (STATIC_AZP, PER_TENSOR, STATIC),
    (F8, PER_TENSOR, STATIC),
]
CPU = detect.resolve_device("cpu")
QUICK = Settings(stop=StopRule(min_blocks=2, max_blocks=2))


def problem_of(name: str, scheme: Scaling, activations: Activations, shape: GemmShape = SHAPE) -> Problem:
    parsed = KernelName.parse(name)
    return parsed.problem(shape, parsed.format, scheme, activations)


def operands_of(
    name: str, scheme: Scaling, activations: Activations, data=Distribution.OUTLIERS, edge_cases: bool = False
) -> Operands:
    factory = OperandFactory(SHAPE, "cpu", data=data.value, seed=5, edge_cases=edge_cases)
    return factory.make(problem_of(name, scheme, activations))


def grown(scale: torch.Tensor, k: int) -> torch.Tensor:
    return scale if scale.shape[1] == 1 else scale.repeat_interleave(128, dim=1)[:, :k]


def codes_of(x: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None, dtype: torch.dtype, rint=torch.round):
    """As libraries do: by the reciprocal of the scale."""
    quotient = x.float() * grown(1.0 / scale, x.shape[1])
    if dtype is not torch.int8:
        return quotient.clamp(-448, 448).to(dtype)
    rounded = rint(quotient) if azp is None else rint(quotient) + azp
    return rounded.clamp(-128, 127).to(dtype)


def made_by(operands: Operands, rint=torch.round) -> Codes:
    """A library's codes: the range of a token's zero point need not hold 0."""
    problem, x = operands.problem, operands.a
    scale, azp = operands.scale_a, operands.azp
    if problem.activations is DYNAMIC:
        scale = quantize_activations(x, problem).scale
        if problem.azp.value == "token":
            low, high = x.float().aminmax(dim=1, keepdim=True)
            scale = (high - low) / 255
            azp = (-128 - low / scale).round().to(torch.int32)
    assert scale is not None
    dtype = torch.int8 if problem.format.value == "int8" else torch.float8_e4m3fn
    return Codes(codes_of(x, scale, azp, dtype, rint), scale, azp)


@pytest.mark.parametrize(("name", "scheme", "activations"), CASES)
@pytest.mark.parametrize("data", Distribution)
def test_codes_of_a_librarys_own_formula_are_right_and_their_share_is_found(name, scheme, activations, data):
    operands = operands_of(name, scheme, activations, data)
    codes = made_by(operands)
    verdict = judge_codes(codes, operands)
    assert verdict.reason == ""
    if data is Distribution.ZEROS:
        assert verdict.differing == 0.0
    elif name == AZP:  # one row of 20 has no 0 in its range
        assert 0 < verdict.differing < 0.06
    else:  # integers that are half of an even absmax are ties
        assert verdict.differing < (0.02 if data is Distribution.UNIT else 1e-3)


@pytest.mark.parametrize(("name", "scheme", "activations"), CASES)
def test_codes_of_zeros_of_ties_and_beyond_a_given_scale_are_right(name, scheme, activations):
    operands = operands_of(name, scheme, activations, Distribution.NORMAL, edge_cases=True)
    codes = made_by(operands)
    assert judge_codes(codes, operands).reason == ""
    if scheme != PER_TENSOR and name != BLOCK_F8:
        zeros = SHAPE.m - 1
        codes.scale[zeros] = float("nan")
        assert f"scales of A are too large; first at row {zeros}, column 0: nan" in judge_codes(codes, operands).reason


@pytest.mark.parametrize(("name", "scheme", "activations"), CASES)
def test_the_references_codes_differ_in_nothing(name, scheme, activations):
    operands = operands_of(name, scheme, activations)
    if activations is STATIC:
        codes = Codes(
            apply_static(operands.a, operands.scale_a, operands.azp, operands.problem.format), operands.scale_a
        )
        codes = replace(codes, azp=operands.azp)
    else:
        made = quantize_activations(operands.a, operands.problem)
        codes = Codes(made.q, made.scale, made.azp)
    assert judge_codes(codes, operands) == CodesVerdict("", 0.0)


def test_a_tie_may_go_either_way_and_is_counted():
    operands = operands_of(I8, PER_TENSOR, STATIC)
    ties = torch.arange(-120, 120).repeat(SHAPE.m, 2)[:, : SHAPE.k] / 2
    operands.a[:, : ties.shape[1]] = ties.to(torch.bfloat16)[:, : SHAPE.k]
    operands = replace(operands, scale_a=torch.ones(1, 1))
    up = judge_codes(made_by(operands, lambda t: (t + 0.5).floor()), operands)
    assert up.reason == "" and 0.1 < up.differing < 0.5
    down = judge_codes(made_by(operands, torch.trunc), operands)
    assert down.reason == "", "halves towards zero are ties too"
    operands.a[3, 4] = 7.75
    assert (
        "not the nearest to A; first at row 3, column 4" in judge_codes(made_by(operands, torch.trunc), operands).reason
    )


def test_every_fp8_code_is_right_up_to_half_way_to_its_neighbour_and_no_further():
    finite = torch.arange(0, 127, dtype=torch.int8).view(torch.float8_e4m3fn)
    low, high = finite[:-1], finite[1:]
    operands = replace(operands_of(F8, PER_TENSOR, STATIC), scale_a=torch.ones(1, 1))

    def right(x: torch.Tensor, q: torch.Tensor) -> bool:
        return judge_codes(Codes(q, operands.scale_a), replace(operands, a=x.to(torch.bfloat16))).reason == ""

    for index in range(len(low)):
        below, above = (part[index].double().view(1, 1) for part in (low, high))
        ends = [part[index].view(1, 1) for part in (low, high)]
        for share, right_ends in (
            (0.0, [True, False]),
            (0.375, [True, False]),
            (0.5, [True, True]),
            (0.625, [False, True]),
        ):
            x = below + share * (above - below)
            for sign in (1, -1):
                assert [right(sign * x, (sign * q.float()).to(q.dtype)) for q in ends] == right_ends, (below, share)


def second_nearest(codes: Codes, x: torch.Tensor) -> tuple[int, int, float]:
    """An element of row 7 that is well rounded, and the code on the other side of it."""
    row, azp = 7, 0 if codes.azp is None else int(codes.azp[-1 if len(codes.azp) == 1 else 7])
    scale = grown(codes.scale, x.shape[1]).expand(x.shape)[row].double()
    x = x[row].double()
    error = ((codes.q[row].double() - azp) * scale - x).abs() / x.abs()
    middling = (x.abs() > 0.2 * x.abs().max()) & (x.abs() < 0.6 * x.abs().max())
    column = int(torch.where(middling, error, torch.inf).argmin())
    bits = codes.q.view(torch.int8)[row, column] + torch.tensor([-1, 1], dtype=torch.int8)
    neighbours = bits.view(codes.q.dtype).double()
    nearest = int(((neighbours - azp) * scale[column] - x[column]).abs().argmin())
    return row, column, float(neighbours[nearest])


def spoil(codes: Codes, fault: str, x: torch.Tensor) -> Codes:
    q, scale, azp = codes.q.clone(), codes.scale.clone(), None if codes.azp is None else codes.azp.clone()
    wide = q.float()
    if fault == "one code off by two":
        wide[7, 9] = -wide[7, 9] if q.dtype is not torch.int8 else wide[7, 9] - 2
    elif fault == "the second nearest code":
        row, column, code = second_nearest(codes, x)
        wide[row, column] = code
    elif fault == "constant":
        wide.fill_(3.0)
    elif fault == "rows swapped":
        wide[[2, 3]] = wide[[3, 2]]
    elif fault == "NaN":
        wide[7, 9] = float("nan")
    elif fault == "scale of the next row":
        scale = scale.roll(1, 0)
    elif fault == "twice the scale":
        scale *= 2
    elif fault == "negative":
        wide, scale = -wide, -scale
    elif fault == "twice the scale and its codes":
        scale *= 2
        wide = codes_of(x, scale, azp, q.dtype).float()
    elif fault == "half the scale and its codes":
        scale /= 2
        wide = codes_of(x, scale, azp, q.dtype).float()
    elif fault == "scale and codes of the next row":
        scale = scale.roll(1, 0)
        wide = codes_of(x, scale, azp, q.dtype).float()
    elif fault == "truncated":
        wide = codes_of(x, scale, azp, q.dtype, torch.trunc).float()
    elif fault == "zero point off by one":
        azp += 1
    elif fault == "zero point left out":
        azp.zero_()
    elif fault == "NaN scale":
        scale[0, 0] = float("nan")
    return Codes(wide.to(q.dtype), scale, azp)


ANY = (
    "one code off by two",
    "the second nearest code",
    "constant",
    "rows swapped",
    "twice the scale",
    "NaN scale",
    "negative",
)
DYNAMIC_ONLY = ("twice the scale and its codes", "half the scale and its codes")
BY_ROW = ("scale of the next row", "scale and codes of the next row")


def faults():
    for case in CASES:
        name, scheme, activations = case
        found = list(ANY)
        found += DYNAMIC_ONLY if activations is DYNAMIC else ()
        found += BY_ROW if scheme != PER_TENSOR else ()
        found += ("truncated",) if "i8" in name else ("NaN",)
        found += ("zero point off by one", "zero point left out") if "azp" in name else ()
        yield from (pytest.param(*case, fault, id=f"{name}-{scheme}-{activations.value}-{fault}") for fault in found)


@pytest.mark.parametrize(("name", "scheme", "activations", "fault"), list(faults()))
def test_a_planted_fault_in_the_codes_is_found(name, scheme, activations, fault):
    operands = operands_of(name, scheme, activations)
    codes = made_by(operands)
    assert judge_codes(codes, operands).reason == ""
    assert judge_codes(spoil(codes, fault, operands.a), operands).reason != ""


def test_a_wrong_code_is_named_with_its_place_and_how_far_it_is_off():
    operands = operands_of(I8, PER_TOKEN, DYNAMIC)
    codes = made_by(operands)
    codes.q[7, 9] -= 2
    x, code, scale = float(operands.a[7, 9]), int(codes.q[7, 9]), float(codes.scale[7, 0])
    verdict = judge_codes(codes, operands)
    off = abs(x - code * scale)
    assert verdict.reason == (
        f"1 of {SHAPE.m * SHAPE.k} codes are not the nearest to A; first at row 7, column 9: "
        f"code {code} is off by {off:.3g}, and A is {x:.6g}; the worst is off by {off / scale:.3g} steps"
    )


def test_a_scale_that_is_too_large_is_named():
    operands = operands_of(F8, PER_TOKEN, DYNAMIC)
    codes = made_by(operands)
    codes.scale[4] *= 1.02
    reason = judge_codes(codes, operands).reason
    assert reason.startswith("1 of 20 scales of A are too large; first at row 4, column 0: ")
    codes.scale[4] /= 1.02 / 1.005
    larger = Codes(codes_of(operands.a, codes.scale, None, codes.q.dtype), codes.scale)
    assert judge_codes(larger, operands).reason == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"q": torch.zeros(20, 272)}, "codes.q is float32 [20,272] on cpu: expected int8 [20,272] on cpu"),
        ({"q": torch.zeros(272, 20, dtype=torch.int8)}, "codes.q is int8 [272,20] on cpu: expected int8 [20,272]"),
        ({"scale": torch.ones(20)}, "codes.scale is float32 [20] on cpu: expected float32 [20,1] on cpu"),
        ({"scale": None}, "codes.scale is None: expected float32 [20,1] on cpu"),
        ({"azp": torch.zeros(20, 1, dtype=torch.int32)}, "codes.azp is int32 [20,1] on cpu: expected None"),
    ],
)
def test_tensors_that_can_not_be_codes_are_named(change, says):
    operands = operands_of(I8, PER_TOKEN, DYNAMIC)
    assert says in judge_codes(replace(made_by(operands), **change), operands).reason


def test_a_scale_that_is_given_must_be_kept():
    operands = operands_of(I8, PER_TENSOR, STATIC)
    codes = made_by(operands)
    assert judge_codes(replace(codes, scale=codes.scale * 1.0001), operands).reason == (
        "codes.scale is not the scale that was given"
    )


def test_what_is_beyond_a_scale_that_is_given_saturates():
    for name in (I8, STATIC_AZP, F8):
        operands = operands_of(name, PER_TENSOR, STATIC)
        operands = replace(operands, scale_a=operands.scale_a / 4)
        codes = made_by(operands)
        assert judge_codes(codes, operands).reason == ""
        beyond = int(operands.a.abs().flatten().argmax())
        codes.q.view(torch.int8).view(-1)[beyond] = 1
        assert judge_codes(codes, operands).reason != ""


@dataclass
class Own:
    """A kernel that quantizes like a library. `spoil` gets its codes and the number of the launch, between quantization
    and product, `late` after both. `early` makes all codes in `bind`."""

    name: str
    spoil: Callable[[Codes, int], None] = lambda codes, number: None
    late: Callable[[Operands, Codes], None] = lambda operands, codes: None
    early: bool = False
    fast_accum = True

    def supports(self, problem, device):
        return Support.yes()

    def prepare(self, problem, device):
        numbers = itertools.count(1)

        def bind(operands):
            codes = made_by(operands)

            def quant():
                if self.early:
                    return
                new = made_by(operands)
                for name, tensor in vars(new).items():
                    if tensor is not None and (problem.activations is DYNAMIC or name == "q"):
                        getattr(codes, name).copy_(tensor)
                self.spoil(codes, next(numbers))

            def gemm():
                value = codes.q.double() if codes.azp is None else codes.q.double() - codes.azp
                k = value.shape[1]
                weights = operands.b.double()
                if operands.scale_b.shape[0] > 1:
                    blocks = operands.scale_b.repeat_interleave(128, 0)[:k].repeat_interleave(128, 1)
                    d = (value * grown(codes.scale, k)) @ (weights * blocks[:, : weights.shape[1]])
                else:
                    d = (value * codes.scale) @ weights * operands.scale_b
                operands.out.copy_(d)
                self.late(operands, codes)

            return Launches(lambda: (quant(), gemm())[0], quant, gemm, codes)

        return SimpleNamespace(config={}, bind=bind)


def run(kernel: Own, scheme: Scaling = PER_TOKEN, activations: Activations = DYNAMIC) -> Record:
    problem = problem_of(kernel.name, scheme, activations)
    comparison = Comparison(0, LabelledShape(SHAPE), (Cell(kernel.name, problem),))
    (record,), _ = run_comparison(comparison, CPU, QUICK, kernels=lambda name: kernel)
    return record


@pytest.mark.parametrize(("name", "scheme", "activations"), CASES)
def test_a_kernel_that_declares_its_codes_is_judged_by_them_and_the_record_has_their_share(name, scheme, activations):
    record = run(Own(name), scheme, activations)
    assert (record.status, record.reason) == (Status.OK, "")
    assert record.config["quantization"] == "acme's own"
    assert 0.0 <= record.config["codes_differing"] < 0.06
    assert {"time_host", "time_host_quant", "time_host_gemm"} <= set(record.samples)


def off_by_two(codes: Codes, number: int) -> None:
    codes.q[0, 0] += 2 if codes.q[0, 0] < 0 else -2


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (Own(I8, spoil=off_by_two), "quantization: 1 of 5440 codes are not the nearest to A; first at row 0, column 0"),
        (Own(I8, spoil=lambda codes, number: codes.q.fill_(1)), "codes are not the nearest to A"),
        (Own(F8, spoil=lambda codes, number: codes.scale.copy_(codes.scale.roll(1, 0))), "quantization: "),
        (Own(I8, early=True), "after timing, on another A: quantization: "),
        (
            Own(F8, spoil=lambda codes, number: codes.scale.mul_(1 + (number > 1))),
            "after timing, on another A: quantization: 20 of 20 scales of A are too large",
        ),
        (Own(I8, late=lambda operands, codes: operands.out[3].mul_(1.1)), "48 of 960 elements wrong; first at row 3"),
        (Own(I8, late=lambda operands, codes: codes.q[3].zero_()), "not the nearest to A; first at row 3"),
    ],
    ids=["off by two", "constant", "row's scale", "of the first call", "later too large", "product", "decoys"],
)
def test_a_kernel_with_a_planted_fault_is_incorrect(kernel, says):
    record = run(kernel)
    assert record.status is Status.INCORRECT
    assert says in record.reason
    assert record.samples == {}


def test_declared_codes_that_the_product_did_not_read_are_no_help():
    """Codes as good as the product's own, but others: of a scale that is 0.5% larger."""

    def others(operands: Operands, codes: Codes) -> None:
        codes.scale.mul_(1.005)
        codes.q.copy_(codes_of(operands.a, codes.scale, None, codes.q.dtype))

    record = run(Own(I8, late=others))
    assert record.status is Status.INCORRECT
    assert "elements wrong" in record.reason and "quantization" not in record.reason


def test_codes_for_activations_that_are_quantized_already_are_refused():
    plain = operands_of(I8, PER_TOKEN, Activations.PREQUANTIZED)
    verdict = judge_codes(Codes(plain.a, plain.scale_a), plain)
    assert verdict.reason == "declares codes, and its activations were quantized already"
    with pytest.raises(TypeError, match="expected Codes"):
        Launches(print, codes=(plain.a, plain.scale_a))
