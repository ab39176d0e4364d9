"""Fingerprints of what kernels read: any bit that is other, and bits that have changed places."""

from __future__ import annotations

import pytest
import torch
from copies import replace
from fetches import fetches_of

from w8a8_bench.correctness import fingerprints
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.problem import SCHEMES, GemmShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.timing.rotation import Arena

SHAPE = GemmShape(m=5, n=33, k=70)


def operands():
    problem = KernelName.parse("pytorch_i8_i8_bf16_scaled_mm_azp_pt_bias").problem(SHAPE, Format.INT8, SCHEMES[-2])
    return OperandFactory(SHAPE, "cpu", data="normal", seed=3).make(problem)


def watched(made) -> fingerprints.InputWatch:
    watch = fingerprints.InputWatch()
    watch.see(made)
    return watch


@pytest.mark.parametrize("name", fingerprints.INPUTS)
def test_every_element_counts(name):
    made = operands()
    watch, tensor = watched(made), getattr(made, name)
    flat = tensor.t() if name == "b" else tensor
    for index in range(flat.numel()):
        element = flat.view(-1)[index]
        kept = element.clone()
        element.copy_(kept + 1)
        assert watch.changed(made) == [name]
        element.copy_(kept)
    assert watch.changed(made) == []


@pytest.mark.parametrize("size", range(1, 18))
def test_every_byte_counts_whatever_is_left_over_of_words(size):
    storage = torch.zeros(size, dtype=torch.uint8)
    before = fingerprints._fingerprints([storage])
    for index in range(size):
        for value in (1, 128, 255):
            storage[index] = value
            assert fingerprints._fingerprints([storage]) != before
        storage[index] = 0
    assert fingerprints._fingerprints([storage]) == before


def test_a_write_to_any_copy_is_seen():
    sets = Arena().sets(operands(), 3)
    watch = fingerprints.InputWatch()
    for one in sets:
        watch.see(one)
    assert watch.changed() == []
    sets[2].b.zero_()
    sets[1].azp.add_(1)
    assert sorted(watch.changed()) == ["azp", "b"]


def test_what_is_written_is_no_input():
    made = operands()
    watch = watched(made)
    made.out.zero_()
    assert watch.changed() == []


def test_elements_that_change_places_are_seen(monkeypatch):
    monkeypatch.setattr(fingerprints, "FINGERPRINT_CHUNK", 8)
    made = operands()
    watch, weight = watched(made), made.b.t()
    weight.copy_(weight.flip(0).clone())
    assert watch.changed() == ["b"]


def test_one_look_at_all_inputs_waits_for_the_device_once():
    made, watch = operands(), fingerprints.InputWatch()
    assert fetches_of(lambda: watch.see(made)) == ["tolist"]
    assert fetches_of(lambda: watch.see(made)) == []
    assert fetches_of(lambda: watch.refuse_writes("", made)) == ["tolist"]


def test_memory_that_two_inputs_share_is_called_by_the_first():
    made = operands()
    made = replace(made, scale_b=made.scale_a)
    watch = watched(made)
    made.scale_a.add_(1)
    assert watch.changed() == ["scale_a"]
