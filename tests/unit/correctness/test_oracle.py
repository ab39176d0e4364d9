"""The oracle against plain arithmetic, and the check against planted faults: every one caught at every size."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from copies import replace

from w8a8_bench.correctness import oracle
from w8a8_bench.correctness.check import Verdict, check, poison
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle, accumulation_error
from w8a8_bench.correctness.quantize import apply_static, quantize_activations, torch_dtype
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.distribution import DATA
from w8a8_bench.problem.formats import OUT_FORMATS, Format
from w8a8_bench.problem.operands import Operands

CHANNEL_TOKEN = SCHEMES[3]


def legal_problems(shape: GemmShape) -> Iterator[Problem]:
    for fmt, out, scaling, azp, bias, activations in itertools.product(
        Format, OUT_FORMATS, (None, *SCHEMES), Azp, (False, True), Activations
    ):
        problem = Problem.of(
            shape=shape, format=fmt, out=out, scaling=scaling, azp=azp, bias=bias, activations=activations
        )
        if problem.why_illegal() is None:
            yield problem


def prequantized(o: Operands) -> Operands:
    """The operands with A quantized, where the kernel would do it."""
    if o.problem.activations is Activations.PREQUANTIZED:
        return o
    if o.problem.activations is Activations.STATIC:
        assert o.scale_a is not None
        return replace(o, a=apply_static(o.a, o.scale_a, o.azp, o.problem.format))
    quantized = quantize_activations(o.a, o.problem)
    return replace(o, a=quantized.q, scale_a=quantized.scale, azp=quantized.azp)


def plain(o: Operands) -> torch.Tensor:
    """D as a straightforward kernel computes it: integers in int64, else float64; corrected, scaled in fp32, cast."""
    p = o.problem
    if p.scaling is not None and p.scaling.is_blockwise:
        assert o.scale_a is not None
        assert o.scale_b is not None
        acc = torch.zeros(p.shape.m, p.shape.n)
        for kb, nb in itertools.product(range(o.scale_b.shape[0]), range(o.scale_b.shape[1])):
            ks, ns = slice(kb * 128, kb * 128 + 128), slice(nb * 128, nb * 128 + 128)
            partial = (o.a[:, ks].double() @ o.b[ks, ns].double()).float()
            acc[:, ns] += o.scale_a[:, kb : kb + 1] * o.scale_b[kb, nb] * partial
        return acc.to(o.out.dtype)
    if p.format is Format.INT8:
        sums = o.a.long() @ o.b.long()
        if p.azp is Azp.TENSOR:
            assert o.azp_adj is not None
            sums -= o.azp_adj
        elif p.azp is Azp.TOKEN:
            assert o.azp is not None
            assert o.azp_adj is not None
            sums -= o.azp.long() * o.azp_adj.long()
        assert int(sums.abs().max()) < 2**31
        acc = sums.int().float()
    else:
        acc = (o.a.double() @ o.b.double()).float()
    if o.scale_a is not None and o.scale_b is not None:
        acc = o.scale_a * (o.scale_b * acc)
    if o.bias is not None:
        acc = acc + o.bias.float()
    return acc.to(o.out.dtype)


@pytest.mark.parametrize(
    "shape",
    [
        GemmShape(m=1, n=1, k=1),
        GemmShape(m=3, n=5, k=1),
        GemmShape(m=17, n=33, k=65),
        GemmShape(m=5, n=130, k=257),
        GemmShape(m=130, n=257, k=300),
    ],
    ids=str,
)
@pytest.mark.parametrize("data", DATA)
def test_every_legal_problem_accepts_a_straightforward_computation(shape: GemmShape, data: str) -> None:
    factory, oracle = OperandFactory(shape, "cpu", data=data, seed=1), Oracle()
    count = 0
    for problem in legal_problems(shape):
        operands = factory.make(problem, guarded=True)
        operands.out.copy_(plain(prequantized(operands)))
        verdict = check(operands, oracle)
        assert verdict.ok, f"{problem}: {verdict.reason}"
        assert verdict.worst <= 1.0
        assert verdict.relative_error < (4e-3 if data != "zeros" or problem.bias else 1e-30)
        assert verdict.reason == ""
        count += 1
    assert count == 132  # 80 of int8, 44 of fp8, 8 without scales


def test_the_oracle_of_integers_is_exact_by_hand() -> None:
    shape = GemmShape(m=2, n=2, k=3)
    problem = Problem.of(
        shape=shape, format=Format.INT8, out=Format.BF16, scaling=CHANNEL_TOKEN, azp=Azp.TOKEN, bias=True
    )
    operands = Operands(
        problem=problem,
        a=torch.tensor([[1, -2, 3], [127, -128, 0]], dtype=torch.int8),
        b=torch.tensor([[1, 2, 3], [-1, 0, 100]], dtype=torch.int8).t(),
        out=torch.empty(2, 2, dtype=torch.bfloat16),
        scale_a=torch.tensor([[0.5], [2.0]]),
        scale_b=torch.tensor([[1.0, 0.25]]),
        azp=torch.tensor([[3], [-4]], dtype=torch.int32),
        azp_adj=torch.tensor([6, 99], dtype=torch.int32),
        bias=torch.tensor([10.0, -1.0], dtype=torch.bfloat16),
    )
    # acc = [[6, 299], [-129, -127]]; azp * sums = [[18, 297], [-24, -396]]
    expected = Oracle().expected(operands)
    assert expected.value.tolist() == [[0.5 * -12 + 10, 0.125 * 2 - 1], [2 * -105 + 10, 0.5 * 269 - 1]]
    hair = 2.0**-21 * (6 + 10) * (1 + 2.0**-8) + 2.0**-126
    assert float(expected.tolerance[0, 0]) == pytest.approx(4 * 2.0**-8 + hair, rel=1e-12)


def test_the_oracle_corrects_by_the_weights_and_not_by_a_wrong_azp_adj() -> None:
    shape = GemmShape(m=4, n=8, k=64)
    problem = Problem.of(shape=shape, format=Format.INT8, out=Format.BF16, scaling=PER_TENSOR, azp=Azp.TENSOR)
    operands = OperandFactory(shape, "cpu", data="normal", seed=0).make(problem)
    assert operands.azp_adj is not None
    wrong = replace(operands, azp_adj=operands.azp_adj + 1000)
    operands.out.copy_(plain(wrong))
    assert not check(wrong, Oracle()).ok


@pytest.mark.parametrize("m", [1, 5, 260])
def test_chunks_do_not_change_the_answer(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = GemmShape(m=m, n=300, k=200)
    factory = OperandFactory(shape, "cpu", data="normal", seed=0)
    problems = [p for p in legal_problems(shape) if p.out is Format.BF16]
    whole = [Oracle().expected(factory.make(p)) for p in problems[::4]]
    monkeypatch.setattr(oracle, "PANEL_CHUNK", 1000)
    monkeypatch.setattr(oracle, "CHECK_CHUNK", 700)
    for problem, expected in zip(problems[::4], whole, strict=True):
        again = Oracle().expected(factory.make(problem))
        torch.testing.assert_close(again.value, expected.value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(again.tolerance, expected.tolerance, rtol=1e-5, atol=1e-30)


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    calls: list[bool] = []
    original = oracle._multiply

    def counted(a: torch.Tensor, b: torch.Tensor, scales: tuple[torch.Tensor, ...], *, with_magnitude: bool) -> object:
        calls.append(with_magnitude)
        return original(a, b, scales, with_magnitude=with_magnitude)

    monkeypatch.setattr(oracle, "_multiply", counted)
    return calls


def test_one_float64_product_serves_all_cells_with_equal_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_products(monkeypatch)
    shape = GemmShape(m=4, n=8, k=64)
    factory, oracle = OperandFactory(shape, "cpu", data="normal", seed=0), Oracle()
    base = Problem.of(shape=shape, format=Format.INT8, out=Format.BF16, scaling=PER_TENSOR)
    first = factory.make(base)
    oracle.expected(first)
    for problem in (
        replace(base, bias=True),
        replace(base, out=Format.FP16),
        replace(base, activations=Activations.DYNAMIC),
    ):
        oracle.expected(factory.make(problem))
    oracle.expected(replace(first, a=first.a.clone(), b=first.b.t().clone().t()))  # another set of the rotation
    assert calls == [False]
    oracle.expected(replace(first, a=-first.a))
    assert calls == [False, False]
    oracle.clear()
    oracle.expected(first)
    assert len(calls) == 3


def test_a_cleared_oracle_lets_go_of_operands_and_a_full_one_of_old_products(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_products(monkeypatch)
    shape = GemmShape(m=4, n=8, k=64)
    factory, oracle = OperandFactory(shape, "cpu", data="normal", seed=0), Oracle(cache_bytes=1)
    problem = Problem.of(shape=shape, format=Format.INT8, out=Format.BF16, scaling=PER_TENSOR)
    one, two = factory.make(problem), factory.make(replace(problem, scheme=CHANNEL_TOKEN.name))
    values = [oracle.expected(o).value for o in (one, two, one)]
    assert torch.equal(values[0], values[2])
    assert len(calls) == 3


@dataclass(frozen=True)
class Variant:
    """A kind of kernel under test: format, scheme, zero point, and the accumulation that its check allows."""

    name: str
    format: Format
    scaling: Scaling
    azp: Azp = Azp.NONE
    bias: bool = True
    fast: bool = False


VARIANTS = (
    Variant("int8", Format.INT8, PER_TENSOR),
    Variant("int8-channel-token", Format.INT8, CHANNEL_TOKEN),
    Variant("int8-azp", Format.INT8, PER_TENSOR, Azp.TENSOR),
    Variant("int8-azp-pt", Format.INT8, CHANNEL_TOKEN, Azp.TOKEN),
    Variant("fp8-precise", Format.FP8, PER_TENSOR),
    Variant("fp8-fast", Format.FP8, PER_TENSOR, fast=True),
    Variant("fp8-channel-token-fast", Format.FP8, CHANNEL_TOKEN, fast=True),
    Variant("fp8-blockwise", Format.FP8, BLOCKWISE, bias=False),
)

SIZES = tuple(
    GemmShape(m=m, n=n, k=k)
    for m, n, k in ((1, 1, 16), (1, 64, 256), (17, 33, 65), (64, 256, 4096), (3, 5, 1), (130, 257, 1000))
)

Fault = Callable[[Operands], "torch.Tensor | None"]
"""D with the fault in it, or None where the problem has nothing to get wrong that way."""


def wrong_scale_a(o: Operands) -> torch.Tensor:
    assert o.scale_a is not None
    scale = o.scale_a.clone()
    scale[-1, -1] *= 1.25
    return plain(replace(o, scale_a=scale))


def wrong_scale_b(o: Operands) -> torch.Tensor:
    assert o.scale_b is not None
    scale = o.scale_b.clone()
    scale[-1, -1] *= 1.25
    return plain(replace(o, scale_b=scale))


def dropped_k_tile(o: Operands) -> torch.Tensor:
    a = o.a.clone()
    a[:, -64:] = 0
    return plain(replace(o, a=a))


def swapped_rows(o: Operands) -> torch.Tensor | None:
    d = plain(o)
    return None if len(d) < 2 else torch.cat([d[1:2], d[:1], d[2:]])


def missing_bias(o: Operands) -> torch.Tensor | None:
    return None if o.bias is None else plain(replace(o, bias=None))


def with_azp(o: Operands, factor: int) -> torch.Tensor | None:
    if o.azp is None or o.azp_adj is None:
        return None
    if o.problem.azp is Azp.TENSOR:  # folded into the adjustment
        return plain(replace(o, azp_adj=factor * o.azp_adj))
    return plain(replace(o, azp=factor * o.azp))


def flipped_azp(o: Operands) -> torch.Tensor | None:
    return with_azp(o, -1)


def missing_azp(o: Operands) -> torch.Tensor | None:
    return with_azp(o, 0)


def unwritten_tile(o: Operands) -> torch.Tensor:
    d = plain(o)
    poison(d[-16:, -16:])
    return d


def one_wrong_element(o: Operands) -> torch.Tensor:
    d = plain(o)
    d[-1, -1] = d[-1, -1] * 1.0625 + 0.5 * d.float().std(correction=0)
    return d


FAULTS: tuple[Fault, ...] = (
    wrong_scale_a,
    wrong_scale_b,
    dropped_k_tile,
    swapped_rows,
    missing_bias,
    flipped_azp,
    missing_azp,
    unwritten_tile,
    one_wrong_element,
)


@pytest.fixture(scope="module")
def answers() -> Callable[[Variant, GemmShape], tuple[Operands, Oracle]]:
    """Operands and an oracle for each size, shared by all faults."""
    made = {shape: (OperandFactory(shape, "cpu", data="normal", seed=11), Oracle()) for shape in SIZES}

    def make(variant: Variant, shape: GemmShape) -> tuple[Operands, Oracle]:
        factory, oracle = made[shape]
        problem = Problem.of(
            shape=shape,
            format=variant.format,
            out=Format.BF16,
            scaling=variant.scaling,
            azp=variant.azp,
            bias=variant.bias,
        )
        return factory.make(problem, guarded=True), oracle

    return make


Answers = Callable[[Variant, GemmShape], "tuple[Operands, Oracle]"]


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_caught(fault: Fault, variant: Variant, shape: GemmShape, answers: Answers) -> None:
    operands, oracle = answers(variant, shape)
    d = fault(operands)
    if d is None:
        return
    operands.out.copy_(d)
    verdict = check(operands, oracle, fast_accum=variant.fast)
    assert not verdict.ok
    assert verdict.worst > 1.0
    assert "elements wrong" in verdict.reason
    assert "\n" not in verdict.reason


def without(*names: str) -> Fault:
    def forgets(o: Operands) -> torch.Tensor | None:
        ones = {name: torch.ones_like(getattr(o, name)) for name in names}
        return plain(replace(o, **ones))

    return forgets


LIKENESSES = {
    "without scale_a": without("scale_a"),
    "without scale_b": without("scale_b"),
    "without scales": without("scale_a", "scale_b"),
    "without bias": missing_bias,
    "without zero point": missing_azp,
    "with the zero point added": flipped_azp,
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("what", LIKENESSES)
def test_an_answer_that_lacks_an_operand_is_told_by_it(what: str, variant: Variant, answers: Answers) -> None:
    operands, oracle = answers(variant, GemmShape(m=17, n=33, k=65))
    d = LIKENESSES[what](operands)
    if d is None:
        return
    operands.out.copy_(d)
    reason = check(operands, oracle, fast_accum=variant.fast).reason
    assert f" elements wrong (the answer {what}); first at row 0, column " in reason


@pytest.mark.parametrize("activations", [Activations.DYNAMIC, Activations.STATIC])
def test_what_is_lacking_is_told_of_a_kernel_that_quantizes_too(activations: Activations) -> None:
    problem = Problem.of(
        shape=GemmShape(m=20, n=24, k=64),
        format=Format.INT8,
        out=Format.BF16,
        scaling=PER_TENSOR,
        bias=True,
        activations=activations,
    )
    operands = OperandFactory(problem.shape, "cpu", data="normal", seed=3).make(problem)
    operands.out.copy_(plain(replace(prequantized(operands), bias=None)))
    assert "(the answer without bias)" in check(operands, Oracle()).reason


@pytest.mark.parametrize("holds_zero", [True, False])
def test_a_range_that_does_not_hold_0_is_caught(holds_zero: bool) -> None:
    problem = Problem.of(
        shape=GemmShape(m=20, n=24, k=2048),
        format=Format.INT8,
        out=Format.BF16,
        scaling=CHANNEL_TOKEN,
        azp=Azp.TOKEN,
        activations=Activations.DYNAMIC,
    )
    operands = OperandFactory(problem.shape, "cpu", data="normal", seed=3).make(problem)
    x = operands.a.float()
    lo, hi = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    if holds_zero:
        lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    scale = (hi - lo) / 255
    azp = (-128 - lo / scale).round()
    q = ((x / scale).round() + azp).clamp(-128, 127)
    assert operands.scale_b is not None and operands.azp_adj is not None
    product = q.double() @ operands.b.double() - azp.double() * operands.azp_adj.double()
    operands.out.copy_(scale.double() * operands.scale_b.double() * product)
    assert check(operands, Oracle()).ok == holds_zero


@pytest.mark.parametrize("fault", [swapped_rows, unwritten_tile, one_wrong_element, dropped_k_tile])
def test_an_answer_that_is_wrong_otherwise_is_likened_to_nothing(fault: Fault, answers: Answers) -> None:
    operands, oracle = answers(VARIANTS[2], GemmShape(m=17, n=33, k=65))
    operands.out.copy_(fault(operands))
    assert "(the answer" not in check(operands, oracle).reason


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("where", ["before", "past"])
def test_a_write_outside_a_right_output_is_caught(
    where: str, variant: Variant, shape: GemmShape, answers: Answers
) -> None:
    operands, oracle = answers(variant, shape)
    out = operands.out
    out.copy_(plain(operands))
    assert check(operands, oracle, fast_accum=variant.fast).ok
    at = out.storage_offset() + (-1 if where == "before" else out.numel())
    out.as_strided((1,), (1,), at).fill_(out[0, 0])
    verdict = check(operands, oracle, fast_accum=variant.fast)
    assert not verdict.ok
    assert verdict.reason.startswith("wrote outside the output: 1 elements")
    assert verdict.worst <= 1.0


def judged(d: list[list[float]], reference_value: list[list[float]], out: Format = Format.BF16) -> Verdict:
    """The verdict on `d` where the answer is `reference_value`: a product of 16-bit operands by the identity."""
    value = torch.tensor(reference_value)
    m, n = value.shape
    dtype = torch_dtype(out)
    operands = Operands(
        problem=Problem.of(shape=GemmShape(m=m, n=n, k=n), format=out, out=out, scaling=None),
        a=value.to(dtype),
        b=torch.eye(n, dtype=dtype),
        out=torch.tensor(d).to(dtype),
    )
    return check(operands, Oracle())


def test_the_reason_names_the_worst_element_the_first_and_how_many() -> None:
    verdict = judged([[1.0, 2.5], [9.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]])
    number = r"[0-9.e-]+"
    assert re.fullmatch(
        f"2 of 4 elements wrong; first at row 0, column 1: got 2.5, expected 2 \\+- {number}; "
        f"worst at row 1, column 0: got 9, expected 3 \\+- {number}",
        verdict.reason,
    )
    assert judged([[1.0, 2.5]], [[1.0, 2.0]]).reason.count("row 0, column 1") == 1
    assert verdict.relative_error == pytest.approx(math.sqrt((0.25 + 36) / 30))


def test_unwritten_elements_are_counted_as_nan_and_make_the_error_infinite() -> None:
    verdict = judged([[1.0, math.nan], [math.nan, 4.0]], [[1.0, 2.0], [3.0, 4.0]])
    assert not verdict.ok
    assert "2 of 4 elements wrong, 2 of them NaN (not written, or made of what out held before?)" in verdict.reason
    assert verdict.relative_error == verdict.worst == math.inf


def test_a_zero_answer_accepts_zero_alone() -> None:
    right, wrong = judged([[0.0, -0.0]], [[0.0, 0.0]]), judged([[0.0, 1e-30]], [[0.0, 0.0]])
    assert right.ok
    assert right.relative_error == 0.0
    assert not wrong.ok
    assert wrong.relative_error == math.inf


def test_fp16_overflow_is_infinity_of_the_right_sign() -> None:
    shape = GemmShape(m=1, n=4, k=1)
    operands = Operands(
        problem=Problem.of(shape=shape, format=Format.INT8, out=Format.FP16, scaling=PER_TENSOR),
        a=torch.tensor([[100]], dtype=torch.int8),
        b=torch.tensor([[100, -100, 1, 100]], dtype=torch.int8),
        out=torch.tensor([[math.inf, -math.inf, 1000.0, math.inf]], dtype=torch.float16),
        scale_a=torch.tensor([[10.0]]),
        scale_b=torch.tensor([[1.0]]),
    )
    assert check(operands, Oracle()).ok
    operands.out[0, 3] = -math.inf
    assert "first at row 0, column 3: got -inf, expected 100000" in check(operands, Oracle()).reason
    operands.out[0, 3] = math.inf
    operands.out[0, 2] = math.inf
    assert not check(operands, Oracle()).ok


def test_more_is_allowed_to_fast_accumulation_and_nothing_to_integers() -> None:
    shape = GemmShape(m=1, n=1, k=4096)
    fp8 = Problem.of(shape=shape, format=Format.FP8, out=Format.BF16, scaling=PER_TENSOR)
    precise, fast = (accumulation_error(fp8, fast_accum=f) for f in (False, True))
    assert 0.0 < precise < 0.2 * fast
    longer = replace(fp8, m=1, n=1, k=16384)
    assert accumulation_error(longer, fast_accum=True) > 2 * fast
    assert accumulation_error(longer, fast_accum=False) == precise
    blockwise = accumulation_error(replace(fp8, scheme=BLOCKWISE.name), fast_accum=True)
    assert precise <= blockwise < 0.2 * fast
    assert accumulation_error(replace(fp8, format=Format.INT8), fast_accum=True) == 0.0


@pytest.mark.parametrize("fast", [False, True])
def test_accumulation_errors_pass_up_to_the_limit_and_not_at_twice_it(fast: bool) -> None:
    shape = GemmShape(m=128, n=256, k=4096)
    problem = Problem.of(shape=shape, format=Format.FP8, out=Format.FP16, scaling=PER_TENSOR)
    operands = OperandFactory(shape, "cpu", data="normal", seed=0).make(problem)
    value = Oracle().expected(operands).value
    # On normal data sqrt(sum_k A^2 B^2) is the standard deviation of the output, to a few percent in every element.
    limit = accumulation_error(problem, fast_accum=fast) * float(value.std())
    signs = torch.rand(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    operands.out.copy_(value + 0.85 * limit * signs)
    verdict = check(operands, Oracle(), fast_accum=fast)
    assert verdict.ok, verdict.reason
    relative = 0.85 * limit / float(value.std()) / 3**0.5
    assert verdict.relative_error == pytest.approx(math.hypot(relative, 2.1e-4), rel=0.05)
    operands.out.copy_(value)
    quiet = int(value.abs().argmin())  # where rounding the output excuses least
    operands.out.view(-1)[quiet] += 2 * limit
    assert not check(operands, Oracle(), fast_accum=fast).ok


def test_pytorchs_own_16_bit_product_is_within_the_tolerance() -> None:
    shape = GemmShape(m=64, n=96, k=4096)
    for fmt in OUT_FORMATS:
        problem = Problem.of(shape=shape, format=fmt, out=fmt, scaling=None)
        operands = OperandFactory(shape, "cpu", data="normal", seed=0).make(problem)
        torch.mm(operands.a, operands.b, out=operands.out)
        assert check(operands, Oracle()).ok
        operands.out[5, 6] *= 1.5
        assert not check(operands, Oracle()).ok
