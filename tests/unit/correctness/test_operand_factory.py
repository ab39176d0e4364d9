"""Operands: what they hold, what they share, that they can be made again; guard bands; the estimate of their memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from copies import replace

from w8a8_bench.correctness.check import check
from w8a8_bench.correctness.guard_bands import ALIGNMENT_BYTES, guard_damage, is_guarded, make_guarded
from w8a8_bench.correctness.operand_factory import AZP_SHIFT, ONE_SIDED, OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.correctness.quantize import quantize, quantize_activations, torch_dtype
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, ActScale, Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.distribution import DATA, Distribution
from w8a8_bench.problem.formats import OUT_FORMATS, Format
from w8a8_bench.problem.memory import comparison_bytes
from w8a8_bench.problem.operands import Operands

SHAPE = GemmShape(m=6, n=130, k=257)
TOKEN = SCHEMES[1]
CHANNEL_TOKEN = SCHEMES[3]


def problem(
    fmt: Format = Format.INT8,
    scaling: Scaling | None = PER_TENSOR,
    *,
    shape: GemmShape = SHAPE,
    out: Format = Format.BF16,
    azp: Azp = Azp.NONE,
    bias: bool = False,
    activations: Activations = Activations.PREQUANTIZED,
) -> Problem:
    return Problem.of(shape=shape, format=fmt, out=out, scaling=scaling, azp=azp, bias=bias, activations=activations)


def legal_problems(shape: GemmShape) -> Iterator[Problem]:
    for fmt, out, scaling, azp, bias, act in itertools.product(
        Format, OUT_FORMATS, (None, *SCHEMES), Azp, (False, True), Activations
    ):
        candidate = problem(fmt, scaling, shape=shape, out=out, azp=azp, bias=bias, activations=act)
        if candidate.why_illegal() is None:
            yield candidate


def factory(data: str = "normal", seed: int = 0, shape: GemmShape = SHAPE) -> OperandFactory:
    return OperandFactory(shape, "cpu", data=data, seed=seed)


def tensors(operands: Operands) -> dict[str, torch.Tensor]:
    names = ("a", "b", "scale_a", "scale_b", "azp", "azp_adj", "bias")
    return {name: value for name in names if (value := getattr(operands, name)) is not None}


def check_layout(p: Problem, o: Operands) -> None:
    m, n, k = p.shape.m, p.shape.n, p.shape.k
    groups, blocks = -(-k // 128), -(-n // 128)
    quantizes_inside = p.activations is not Activations.PREQUANTIZED
    assert o.problem is p
    assert o.a.shape == (m, k)
    assert o.a.is_contiguous()
    assert o.a.dtype == (torch.bfloat16 if quantizes_inside else torch_dtype(p.format))
    assert o.b.shape == (k, n)
    assert o.b.t().is_contiguous()
    assert o.b.dtype == torch_dtype(p.format)
    assert o.out.shape == (m, n)
    assert o.out.is_contiguous()
    assert o.out.dtype == torch_dtype(p.out)
    dynamic = p.activations is Activations.DYNAMIC
    if p.scaling is None or dynamic:
        assert o.scale_a is None
    else:
        assert o.scale_a is not None
        assert o.scale_a.dtype == torch.float32
        assert o.scale_a.is_contiguous()
        assert (
            tuple(o.scale_a.shape)
            == {"tensor": (1, 1), "token": (m, 1), "group": (m, groups)}[p.scaling.activation.value]
        )
    if p.scaling is None:
        assert o.scale_b is None
    else:
        assert o.scale_b is not None
        assert o.scale_b.dtype == torch.float32
        assert o.scale_b.is_contiguous()
        assert (
            tuple(o.scale_b.shape)
            == {"tensor": (1, 1), "channel": (1, n), "block": (groups, blocks)}[p.scaling.weight.value]
        )
    if p.azp is Azp.NONE:
        assert o.azp is None
        assert o.azp_adj is None
    else:
        assert o.azp_adj is not None
        assert o.azp_adj.shape == (n,)
        assert o.azp_adj.dtype == torch.int32
        if dynamic:
            assert o.azp is None
        else:
            assert o.azp is not None
            assert o.azp.dtype == torch.int32
            assert tuple(o.azp.shape) == ((1, 1) if p.azp is Azp.TENSOR else (m, 1))
    assert (o.bias is not None) == p.bias
    if o.bias is not None:
        assert o.bias.shape == (n,)
        assert o.bias.dtype == torch_dtype(p.out)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("shape", [SHAPE, GemmShape(m=1, n=1, k=1), GemmShape(m=129, n=128, k=128)], ids=str)
def test_every_legal_problem_gets_operands_of_the_documented_layout(shape: GemmShape, data: str) -> None:
    made = factory(data, shape=shape)
    for p in legal_problems(shape):
        check_layout(p, made.make(p))


def test_one_seed_gives_the_same_bits_in_whatever_order_they_are_asked_for() -> None:
    problems = list(legal_problems(SHAPE))
    forward, backward = factory(seed=7), factory(seed=7)
    first = [tensors(forward.make(p)) for p in problems]
    second = [tensors(backward.make(p)) for p in reversed(problems)][::-1]
    for p, one, two in zip(problems, first, second, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert torch.equal(value.float(), two[name].float()), f"{name} of {p}"


def test_another_seed_gives_other_values() -> None:
    one, two = factory(seed=0), factory(seed=1)
    assert not torch.equal(one.activations(), two.activations())
    assert not torch.equal(one.weights(), two.weights())


def test_activations_weights_and_bias_are_not_the_same_random_numbers() -> None:
    made = factory(shape=GemmShape(m=64, n=64, k=64))
    x, w = made.activations().float().flatten(), made.weights().float().flatten()
    assert abs(float(torch.corrcoef(torch.stack([x, w]))[0, 1])) < 0.1


def test_cells_of_one_comparison_share_inputs_and_not_outputs() -> None:
    made = factory()
    one = made.make(problem(Format.FP8, CHANNEL_TOKEN))
    two = made.make(problem(Format.FP8, CHANNEL_TOKEN, out=Format.FP16, bias=True))
    other_weights = made.make(problem(Format.FP8, TOKEN))
    assert one.a is two.a
    assert one.b is two.b
    assert one.scale_a is two.scale_a
    assert one.scale_b is two.scale_b
    assert one.a is other_weights.a
    assert one.b is not other_weights.b
    assert one.out.data_ptr() != made.make(problem(Format.FP8, CHANNEL_TOKEN)).out.data_ptr()
    baseline = made.make(problem(Format.BF16, None))
    dynamic = made.make(problem(Format.FP8, CHANNEL_TOKEN, activations=Activations.DYNAMIC))
    assert baseline.a.data_ptr() == dynamic.a.data_ptr() == made.activations().data_ptr()


@pytest.mark.parametrize("azp", [Azp.NONE, Azp.TOKEN])
def test_dynamic_activations_quantize_to_the_prequantized_ones(azp: Azp) -> None:
    made = factory()
    ready = made.make(problem(scaling=TOKEN, azp=azp))
    p = problem(scaling=TOKEN, azp=azp, activations=Activations.DYNAMIC)
    again = quantize_activations(made.make(p).a, p)
    assert torch.equal(again.q, ready.a)
    assert ready.scale_a is not None
    assert torch.equal(again.scale, ready.scale_a)


@pytest.mark.parametrize("data", ["normal", "outliers"])
@pytest.mark.parametrize(("fmt", "azp"), [(Format.INT8, Azp.NONE), (Format.INT8, Azp.TENSOR), (Format.FP8, Azp.NONE)])
def test_a_static_kernel_that_computes_a_scale_of_its_own_is_wrong(fmt: Format, azp: Azp, data: str) -> None:
    static = OperandFactory(SHAPE, "cpu", data=data, seed=0).make(problem(fmt, azp=azp, activations=Activations.STATIC))
    oracle = Oracle()
    static.out.copy_(oracle.expected(static).value)
    assert check(static, oracle).ok
    own = quantize(static.a, fmt, ActScale.TENSOR, azp)
    other = replace(static.problem, activations=Activations.PREQUANTIZED)
    static.out.copy_(oracle.expected(replace(static, problem=other, a=own.q, scale_a=own.scale, azp=own.azp)).value)
    assert not check(static, oracle).ok


def test_activations_with_a_zero_point_lean_to_one_side() -> None:
    made = factory(shape=GemmShape(m=64, n=8, k=512))
    operands = made.make(problem(shape=made.shape, scaling=TOKEN, azp=Azp.TOKEN))
    assert operands.azp is not None
    assert float(made.activations(shifted=True).float().mean()) == pytest.approx(AZP_SHIFT, abs=0.05)
    assert float(operands.azp.float().mean()) < -5


def test_one_of_several_tokens_with_a_zero_point_is_off_0_altogether() -> None:
    several, one = (factory(shape=GemmShape(m=m, n=8, k=512)) for m in (64, 1))
    x = several.activations(shifted=True)
    assert float(x[0].min()) >= ONE_SIDED
    assert bool((x[1:].amin(1) < 0).all()) and bool((x[1:].amax(1) > 0).all())
    assert float(one.activations(shifted=True).min()) < 0
    assert float(several.activations()[0].min()) < 0, "without a zero point it stays"


def test_azp_adj_is_the_exact_sum_of_the_weights() -> None:
    made = factory()
    per_token, per_tensor = (made.make(problem(scaling=PER_TENSOR, azp=azp)) for azp in (Azp.TOKEN, Azp.TENSOR))
    sums = [sum(column) for column in per_token.b.t().tolist()]
    assert per_token.azp_adj is not None
    assert per_token.azp_adj.tolist() == sums
    assert per_tensor.azp_adj is not None
    assert per_tensor.azp is not None
    assert per_tensor.azp_adj.tolist() == [int(per_tensor.azp) * s for s in sums]


@pytest.mark.parametrize("data", [d for d in DATA if d != "zeros"])
@pytest.mark.parametrize("out", OUT_FORMATS)
def test_the_bias_is_of_the_size_of_the_outputs(data: str, out: Format) -> None:
    made = factory(data, shape=GemmShape(m=64, n=256, k=512))
    bias = made.make(problem(shape=made.shape, out=out, bias=True)).bias
    assert bias is not None
    typical = float((made.activations().float() @ made.weights().float().t()).std())
    assert 0.5 * typical < float(bias.float().std()) < 4 * typical
    assert float(bias.float().abs().min()) > 0.3 * typical


def test_a_bias_shows_even_where_the_product_is_zero() -> None:
    bias = factory("zeros").make(problem(bias=True)).bias
    assert bias is not None
    assert float(bias.float().abs().min()) >= 0.5


def test_data_are_what_their_names_say() -> None:
    shape = GemmShape(m=256, n=64, k=512)
    x = {data: factory(data, shape=shape).activations().float() for data in DATA}
    assert float(x["normal"].std()) == pytest.approx(1.0, abs=0.02)
    assert float(x["normal"].abs().max()) > 3.5
    assert float(x["uniform"].abs().max()) <= 1.0
    assert float(x["uniform"].std()) == pytest.approx(3**-0.5, abs=0.02)
    assert not x["zeros"].any()
    assert int((x["outliers"].std(0) > 10).sum()) == 2
    assert torch.equal(x["unit"], x["unit"].round())
    assert float(x["unit"].std()) == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8])
def test_unit_data_have_scales_of_exactly_one(fmt: Format) -> None:
    made = factory("unit")
    for scaling in SCHEMES:
        p = problem(fmt, scaling)
        if p.why_illegal():
            continue
        operands = made.make(p)
        assert operands.scale_a is not None
        assert operands.scale_b is not None
        assert bool((operands.scale_a == 1.0).all())
        assert bool((operands.scale_b == 1.0).all())
        small = made.activations().float().abs() <= 16  # fp8 holds every integer up to here
        assert torch.equal(operands.a.float()[small], made.activations().float()[small])


def test_unit_zero_points_are_small_and_never_zero() -> None:
    operands = factory("unit").make(problem(scaling=TOKEN, azp=Azp.TOKEN))
    assert operands.azp is not None
    assert set(operands.azp.flatten().tolist()) <= set(range(1, 8))


def test_unknown_data_and_foreign_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of normal, uniform"):
        factory("gaussian")
    with pytest.raises(ValueError, match="this factory makes"):
        factory().make(problem(shape=GemmShape(m=1, n=1, k=1)))
    with pytest.raises(ValueError, match="fp8 takes no zero point"):
        factory().make(problem(Format.FP8, azp=Azp.TENSOR))
    assert Distribution.parse("unit") is Distribution.UNIT


@pytest.mark.parametrize("out", OUT_FORMATS)
@pytest.mark.parametrize("shape", [SHAPE, GemmShape(m=1, n=1, k=1)], ids=str)
def test_a_guarded_output_is_poisoned_aligned_and_undamaged(shape: GemmShape, out: Format) -> None:
    d = factory(shape=shape).make(problem(shape=shape, out=out), guarded=True).out
    assert bool(d.isnan().all())
    assert d.data_ptr() % ALIGNMENT_BYTES == 0
    assert d.storage_offset() >= 4096
    assert d.untyped_storage().nbytes() // 2 - d.storage_offset() - d.numel() >= 4096
    assert is_guarded(d)
    assert guard_damage(d) is None
    d.zero_()
    assert guard_damage(d) is None


@pytest.mark.parametrize("distance", [1, 2, 100, 4096])
@pytest.mark.parametrize("value", [0.0, float("nan"), 1.5])
def test_a_write_outside_a_guarded_output_is_seen(distance: int, value: float) -> None:
    d = make_guarded(3, 5, torch.bfloat16, torch.device("cpu"))
    start = d.storage_offset()
    d.as_strided((1,), (1,), start + 14 + distance).fill_(value)
    assert guard_damage(d) == f"wrote outside the output: 1 elements past its end (nearest: {distance} past)"
    d.as_strided((1,), (1,), start - distance).fill_(value)
    assert f"1 elements before its start (nearest: {distance} before)" in str(guard_damage(d))


def test_an_output_without_guards_reports_no_damage() -> None:
    d = factory().make(problem()).out
    assert not is_guarded(d)
    assert guard_damage(d) is None


def test_the_memory_estimate_covers_what_is_made() -> None:
    for shape in (SHAPE, GemmShape(m=512, n=256, k=384)):
        problems = list(legal_problems(shape))
        made = factory(shape=shape)
        held = [made.make(p, guarded=True) for p in problems]
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for o in held for t in tensors(o).values()
        }
        storages |= {o.out.untyped_storage().data_ptr(): o.out.untyped_storage().nbytes() for o in held}
        assert sum(storages.values()) < comparison_bytes(problems) < 5 * sum(storages.values()) + 2**28


def test_the_memory_estimate_counts_shared_operands_once_and_needs_no_allocation() -> None:
    shape = GemmShape(m=16, n=16384, k=16384)
    one = comparison_bytes([problem(Format.FP8, BLOCKWISE, shape=shape)])
    two = comparison_bytes([problem(Format.FP8, BLOCKWISE, shape=shape, out=out) for out in OUT_FORMATS])
    assert two - one < 2**25 < shape.n * shape.k < one
    assert comparison_bytes([]) == 0
    with pytest.raises(ValueError, match="one shape"):
        comparison_bytes([problem(), problem(shape=shape)])
