"""Fingerprints of what kernels read: any bit that is other, and bits that have changed places."""

from __future__ import annotations

import pytest

from w8a8_bench import guard
from w8a8_bench.formats import Format
from w8a8_bench.make_operands import OperandFactory
from w8a8_bench.names import KernelName
from w8a8_bench.problem import SCHEMES, GemmShape
from w8a8_bench.timing.rotation import Arena

SHAPE = GemmShape(m=5, n=33, k=70)


def operands():
    problem = KernelName.parse("pytorch_i8_i8_bf16_scaled_mm_azp_pt_bias").problem(SHAPE, Format.INT8, SCHEMES[-2])
    return OperandFactory(SHAPE, "cpu", data="normal", seed=3).make(problem)


def test_every_input_has_one_and_equal_inputs_have_equal_ones():
    assert set(guard.fingerprints(operands())) == set(guard.INPUTS)
    assert guard.fingerprints(operands()) == guard.fingerprints(operands())


@pytest.mark.parametrize("name", guard.INPUTS)
def test_every_element_counts(name):
    made = operands()
    before, tensor = guard.fingerprints(made), getattr(made, name)
    flat = tensor.t() if name == "b" else tensor
    for index in range(flat.numel()):
        element = flat.view(-1)[index]
        kept = element.clone()
        element.copy_(kept + 1)
        after = guard.fingerprints(made)
        assert [one for one in before if before[one] != after[one]] == [name]
        element.copy_(kept)
    assert guard.fingerprints(made) == before


def test_a_write_to_any_copy_is_seen():
    sets = Arena().sets(operands(), 3)
    watch = guard.InputWatch()
    for one in sets:
        watch.see(one)
    assert watch.changed() == []
    sets[2].b.zero_()
    sets[1].azp.add_(1)
    assert sorted(watch.changed()) == ["azp", "b"]


def test_what_is_written_is_no_input():
    made, watch = operands(), guard.InputWatch()
    watch.see(made)
    made.out.zero_()
    assert watch.changed() == []


def test_elements_that_change_places_are_seen(monkeypatch):
    monkeypatch.setattr(guard, "FINGERPRINT_CHUNK", 8)
    made = operands()
    before = guard.fingerprints(made)
    weight = made.b.t()
    weight.copy_(weight.flip(0).clone())
    assert guard.fingerprints(made)["b"] != before["b"]
