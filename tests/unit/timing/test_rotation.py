"""Rotations: enough sets to be cold, whole rotations a replay, and copies that are the operands bit by bit."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from copies import replace
from made_devices import CPU

from w8a8_bench.correctness.fingerprints import InputWatch
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.kernel import Launches
from w8a8_bench.problem import SCHEMES, Activations, GemmShape, Problem
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.memory import (
    L2_TIMES,
    MAX_SETS,
    MIN_LAUNCHES,
    MIN_SETS,
    MOST_QUANTIZATIONS,
    most_sets,
    rotation_bytes,
    rotation_sets,
)
from w8a8_bench.problem.operands import Operands
from w8a8_bench.problem.work import bytes_moved
from w8a8_bench.providers import registry
from w8a8_bench.timing.measures import TIME_COLD
from w8a8_bench.timing.rotation import (
    ALIGNMENT,
    PAGE,
    Arena,
    NotCold,
    ReservedMemory,
    RotationPlan,
    cold_rows,
    plan,
    plan_of,
    plan_of_quantization,
    set_bytes,
)

L2 = 60 * 2**20
SHAPE = GemmShape(m=17, n=48, k=272)
INT8, FP8 = "pytorch_i8_i8_bf16_scaled_mm", "pytorch_fp8_fp8_bf16_scaled_mm"


def problem(kernel: str, shape: GemmShape = SHAPE, scheme=None, activations=Activations.PREQUANTIZED) -> Problem:
    name = KernelName.parse(kernel)
    return name.problem(shape, name.format, scheme or name.default_scheme, activations)


def operands(kernel: str = FP8, **changes) -> Operands:
    return OperandFactory(SHAPE, "cpu", data="normal", seed=0).make(problem(kernel, **changes))


def tensors(one: Operands) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's values in the order of its memory, as bytes."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


@pytest.mark.parametrize(
    ("set_size", "sets", "scrub"),
    [
        (L2_TIMES * L2 * 3, MIN_SETS, False),
        (L2_TIMES * L2, MIN_SETS, False),
        (L2_TIMES * L2 // 2, 2, False),
        (L2_TIMES * L2 // 2 - 1, 3, False),
        (L2_TIMES * L2 // 7, 8, False),
        (L2_TIMES * L2 // MAX_SETS, MAX_SETS, False),
        (L2_TIMES * L2 // MAX_SETS - 1, MAX_SETS, True),
        (1, MAX_SETS, True),
    ],
)
def test_sets_are_as_many_as_exceed_the_l2_five_times_and_scrubbed_where_those_are_too_many(set_size, sets, scrub):
    assert rotation_sets(set_size, L2) == (sets, scrub)
    assert sets * set_size >= 5 * L2 or scrub
    assert plan(set_size, L2) == RotationPlan(sets, set_size, scrub)


def test_a_rotation_of_one_set_less_would_not_be_cold():
    for set_size in range(2**18, 2**26, 99_991):
        sets, scrub = rotation_sets(set_size, L2)
        if not scrub and sets > MIN_SETS:
            assert sets * set_size >= 5 * L2 > (sets - 1) * set_size


def test_where_memory_is_short_rotations_have_fewer_sets_and_the_l2_is_scrubbed():
    problems = [problem(INT8, GemmShape(m=16, n=512, k=512)), problem(FP8, GemmShape(m=16, n=512, k=512))]
    whole = rotation_bytes(problems, L2)
    assert most_sets(problems, L2, whole) == MAX_SETS
    most = most_sets(problems, L2, whole // 2)
    assert MIN_LAUNCHES <= most < MAX_SETS
    assert rotation_bytes(problems, L2, most) <= whole // 2
    assert all(rotation_sets(bytes_moved(one), L2, most) == (most, True) for one in problems)
    assert plan(bytes_moved(problems[0]), L2, most) == RotationPlan(most, bytes_moved(problems[0]), scrub=True)
    assert most_sets(problems, L2, 0) == MIN_LAUNCHES, "fewer sets could not be timed"


def test_sets_that_are_large_are_never_cut_below_what_makes_them_cold():
    assert rotation_sets(L2_TIMES * L2, L2, MIN_LAUNCHES) == (MIN_SETS, False)


@pytest.mark.parametrize("l2", [None, 0])
def test_an_l2_of_unknown_size_is_refused_and_not_called_cold(l2):
    with pytest.raises(NotCold, match="L2 is unknown"):
        plan(1 << 20, l2)


def test_rotation_bytes_hold_every_distinct_set_and_the_scrub():
    large = GemmShape(m=4096, n=16384, k=16384)
    one, other = problem(INT8, large), problem(FP8, large)
    need = {p: rotation_sets(bytes_moved(p), L2)[0] * bytes_moved(p) for p in (one, other)}
    assert rotation_bytes([one], L2) == L2_TIMES * L2 + need[one]
    assert rotation_bytes([one, other], L2) == L2_TIMES * L2 + need[one] + need[other]
    assert rotation_bytes([one, one], L2) == rotation_bytes([one], L2), "cells with the same operands share them"
    assert need[one] >= MIN_SETS * bytes_moved(one)


@pytest.mark.parametrize("kernels", [(INT8,), (FP8, INT8, "pytorch_bf16_bf16_bf16_matmul-no-scales")])
@pytest.mark.parametrize("shape", [GemmShape(m=64, n=64, k=64), GemmShape(m=16, n=512, k=512)], ids=str)
def test_rotation_bytes_are_no_less_than_what_the_arena_holds(kernels, shape):
    l2 = 2**20
    factory, arena = OperandFactory(shape, "cpu", data="normal", seed=0), Arena()
    problems = [problem(kernel, shape) for kernel in kernels]
    held: dict[int, int] = {}
    for one in problems:
        made = factory.make(one)
        for copy in arena.sets(made, plan(set_bytes(made), l2).sets):
            for tensor in tensors(copy).values():
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    assert sum(held.values()) <= rotation_bytes(problems, l2)


def test_what_is_reserved_is_given_out_once_until_it_is_given_back():
    reserved = ReservedMemory(replace(CPU, available_bytes=16 * 3 * PAGE))
    first, second = reserved.take(5), reserved.take(2 * PAGE)
    assert second.data_ptr() - first.data_ptr() == PAGE
    assert reserved.take(1) is None
    reserved.give_back()
    assert reserved.take(3 * PAGE).data_ptr() == first.data_ptr()
    assert ReservedMemory(replace(CPU, available_bytes=160)).take(11) is None


def test_a_shape_lies_at_the_same_place_whatever_was_timed_before():
    reserved = ReservedMemory(replace(CPU, available_bytes=16 * 4 * PAGE))

    def places(*kernels: str) -> list[int]:
        """Where the operands of kernels lie, one kernel after the other."""
        arena = Arena(reserved)
        return [one.b.data_ptr() for kernel in kernels for one in arena.sets(operands(kernel), 3)]

    first = places(FP8)
    assert len(set(places(INT8, FP8)) | set(first)) == 9, "memory that is in use was given out again"
    reserved.give_back()
    assert places(FP8) == first
    held = [torch.empty(0)] + [reserved.take(PAGE) for _ in range(9)]
    assert held[-1] is None
    assert set(places(INT8)).isdisjoint(first), "without room, an arena takes memory of its own"


def test_what_is_written_to_outputs_beside_reserved_inputs_is_no_write_to_inputs():
    sets = Arena(ReservedMemory(replace(CPU, available_bytes=16 * 8 * PAGE))).sets(operands(FP8), 2)
    watch = InputWatch()
    for one in sets:
        watch.see(one)
    for one in sets:
        one.out.fill_(1.0)
    assert watch.changed() == []
    sets[1].a.view(torch.uint8)[0, 0] ^= 1
    assert watch.changed() == ["a"]


@pytest.mark.parametrize("sets", [2, 3, 8, 100, 1024])
@pytest.mark.parametrize("seconds", [1e-7, 5e-6, 1e-3, 0.2])
def test_a_replay_is_whole_rotations_of_at_least_four_launches(sets, seconds):
    count = RotationPlan(sets, 1 << 20, scrub=False).launches(seconds, 3e-3)
    assert count % sets == 0
    assert count >= MIN_LAUNCHES
    fewest = -(-MIN_LAUNCHES // sets) * sets
    assert abs(count * seconds - 3e-3) <= sets * seconds / 2 or count == fewest


@pytest.mark.parametrize("seconds", [0.0, -1e-6])
def test_a_launch_that_takes_no_time_has_a_replay_of_some_length(seconds):
    assert 1000 < RotationPlan(7, 1 << 20, scrub=False).launches(seconds, 3e-3) < 100_000
    assert RotationPlan(1024, 1, scrub=True).launches(seconds, 3e-3) == 1024


def test_one_set_is_launched_as_often_as_fills_the_replay():
    assert RotationPlan(1, 1 << 20, scrub=False).launches(1e-4, 3e-3) == 30
    assert RotationPlan(1, 1 << 20, scrub=False).launches(1.0, 3e-3) == MIN_LAUNCHES


@pytest.mark.parametrize("seconds", [1e-9, 1e-6, 5e-6, 1e-3, 1.0])
def test_a_scrubbed_replay_touches_no_set_twice(seconds):
    count = RotationPlan(MAX_SETS, 4096, scrub=True).launches(seconds, 3e-3)
    assert MIN_LAUNCHES <= count <= MAX_SETS


def every_problem() -> list[Problem]:
    """One of each kind of operands that PyTorch's kernels take."""
    found: dict[Problem, None] = {}
    for name in registry.PROVIDERS[0].kernels + registry.PROVIDERS[0].on_request:
        parsed = KernelName.parse(name)
        for fmt in (fmt for fmt in W8A8_FORMATS if parsed.serves(fmt)):
            for scheme in (None,) if parsed.is_baseline else SCHEMES:
                for kind in Activations:
                    one = parsed.problem(SHAPE, fmt, scheme, kind)
                    if one.why_illegal() is None:
                        found[one] = None
    assert len(found) > 30
    return list(found)


def test_copies_are_the_operands_bit_by_bit_in_their_layout_at_addresses_of_their_own():
    factory = OperandFactory(SHAPE, "cpu", data="normal", seed=0)
    for what in every_problem():
        source = factory.make(what)
        sets = Arena().sets(source, 3)
        spans = []
        for one in sets:
            assert one.problem == what
            assert tensors(one).keys() == tensors(source).keys()
            for name, copy in tensors(one).items():
                original = tensors(source)[name]
                assert (copy.shape, copy.stride(), copy.dtype) == (original.shape, original.stride(), original.dtype)
                assert name == "out" or torch.equal(bits(copy), bits(original)), f"{name} of {what}"
                spans.append((copy.data_ptr(), copy.data_ptr() + copy.nbytes))
        spans += [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors(source).values()]
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), f"overlap in {what}"


def test_b_stays_column_major():
    (one, _) = Arena().sets(operands(), 2)
    assert one.b.stride() == (1, SHAPE.k)
    assert one.a.stride() == (SHAPE.k, 1)


def test_tensors_of_the_arena_begin_on_lines_of_their_own():
    sets = Arena().sets(operands(INT8, scheme=SCHEMES[3]), 3)
    for name in tensors(sets[0]):
        first, second, third = (tensors(one)[name].data_ptr() for one in sets)
        assert third - second == second - first
        assert (second - first) % ALIGNMENT == 0
        assert second - first == -(-tensors(sets[0])[name].nbytes // ALIGNMENT) * ALIGNMENT


def test_cells_with_the_same_tensor_share_its_copies_and_no_others():
    factory, arena = OperandFactory(SHAPE, "cpu", data="normal", seed=0), Arena()
    per_tensor, per_token = (factory.make(problem(FP8, scheme=scheme)) for scheme in (SCHEMES[0], SCHEMES[1]))
    assert per_tensor.b.data_ptr() == per_token.b.data_ptr(), "the same weights"
    first, second = arena.sets(per_tensor, 3), arena.sets(per_token, 3)
    for one, other in zip(first, second, strict=True):
        assert one.b.data_ptr() == other.b.data_ptr()
        assert one.a.data_ptr() != other.a.data_ptr(), "quantized otherwise"
        assert one.scale_a.data_ptr() != other.scale_a.data_ptr()
        assert one.out.data_ptr() == other.out.data_ptr(), "cells run one after another"


def test_outputs_are_shared_only_by_shape_and_dtype():
    factory, arena = OperandFactory(SHAPE, "cpu", data="normal", seed=0), Arena()
    half = KernelName.parse("pytorch_fp8_fp8_fp16_scaled_mm")
    bf16, fp16 = (
        factory.make(problem(FP8)),
        factory.make(half.problem(SHAPE, Format.FP8, half.default_scheme, Activations.PREQUANTIZED)),
    )
    first, second = arena.sets(bf16, 2), arena.sets(fp16, 2)
    assert {one.out.data_ptr() for one in first}.isdisjoint(one.out.data_ptr() for one in second)
    again = arena.sets(factory.make(problem(FP8)), 2)
    assert [one.out.data_ptr() for one in again] == [one.out.data_ptr() for one in first]


def test_an_output_is_never_taken_for_an_input_of_the_same_shape():
    square = GemmShape(m=32, n=32, k=32)
    factory, arena = OperandFactory(square, "cpu", data="normal", seed=0), Arena()
    (one, other) = arena.sets(factory.make(problem("pytorch_bf16_bf16_bf16_matmul-no-scales", square)), 2)
    pointers = {tensor.data_ptr() for copy in (one, other) for tensor in tensors(copy).values()}
    assert len(pointers) == 6


def test_a_cell_that_needs_more_sets_leaves_those_of_another_as_they_are():
    source, arena = operands(), Arena()
    few = arena.sets(source, 2)
    before = [bits(one.a).clone() for one in few]
    many = arena.sets(source, 5)
    assert len({one.a.data_ptr() for one in many}) == 5
    assert all(torch.equal(bits(one.a), bits(source.a)) for one in many)
    assert all(torch.equal(bits(one.a), kept) for one, kept in zip(few, before, strict=True))


def test_bytes_of_a_set_are_those_that_it_takes_up():
    source = operands()
    least = bytes_moved(source.problem)
    assert least <= set_bytes(source) < least + ALIGNMENT * len(tensors(source))


@pytest.mark.parametrize("l2", [2**12, 2**14, 2**17])
def test_where_a_is_quantized_inside_every_part_is_cold_by_what_it_reads_itself(l2):
    source = operands(activations=Activations.DYNAMIC)
    shape = source.problem.shape
    whole, of_a = plan_of(source, l2), plan_of_quantization(source, l2)
    assert whole.set_bytes == set_bytes(source)
    assert whole.scrub or whole.sets * (set_bytes(source) - shape.m * shape.k) >= L2_TIMES * l2, "the GEMM reads codes"
    assert 0 <= of_a.set_bytes - 2 * shape.m * shape.k < ALIGNMENT, "quantization reads A and no more"
    assert of_a.scrub or of_a.sets * of_a.set_bytes >= L2_TIMES * l2
    assert of_a.sets <= MOST_QUANTIZATIONS
    assert plan_of_quantization(source, l2, most=MIN_LAUNCHES).sets <= MIN_LAUNCHES


def test_quantization_alone_goes_through_sets_of_a_that_share_the_weights():
    source, arena = operands(activations=Activations.DYNAMIC), Arena()
    quantized: list[Operands] = []

    def bind(one: Operands) -> Launches:
        return Launches(lambda: None, quant=lambda: quantized.append(one), gemm=lambda: None)

    l2 = set_bytes(source) // L2_TIMES
    sets, bound, rows = cold_rows(TIME_COLD, bind, source, plan_of(source, l2), arena, l2)
    assert len(sets) == len(bound) == rows[TIME_COLD].plan.sets == len(rows[f"{TIME_COLD}_gemm"].launches)
    alone = rows[f"{TIME_COLD}_quant"]
    assert len(quantized) == len(alone.launches) == alone.plan.sets > len(sets), "launched once before it is captured"
    assert len({one.a.data_ptr() for one in quantized}) == alone.plan.sets
    assert {one.b.data_ptr() for one in quantized} == {source.b.data_ptr()}
    assert all(torch.equal(bits(one.a), bits(source.a)) for one in quantized)


def test_rotation_bytes_hold_the_sets_of_quantization_alone():
    inside = problem(FP8, GemmShape(m=16, n=4096, k=4096), activations=Activations.DYNAMIC)
    given = problem(FP8, GemmShape(m=16, n=4096, k=4096))
    assert rotation_bytes([inside], L2) >= rotation_bytes([given], L2) + MOST_QUANTIZATIONS * 2 * 16 * 4096


@pytest.mark.parametrize("page", ["README.md", "docs/timing.md"])
def test_pages_give_the_size_of_a_rotation_as_it_is(page: str) -> None:
    text = (Path(__file__).resolve().parents[3] / page).read_text()
    assert set(re.findall(r"(\S+) times the L2", text)) == {str(L2_TIMES)}
