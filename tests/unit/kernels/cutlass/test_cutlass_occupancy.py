"""How many clusters a GPU runs at one time: asked once, kept on disk, guessed where there is no GPU."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.kernels.cutlass import compile_cache, occupancy  # noqa: E402
from w8a8_bench.kernels.cutlass.geometry import Occupancy  # noqa: E402

CLUSTERS = (66, 31, 14)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A GPU that says `CLUSTERS`; gathers the devices that it was asked as."""
    asked = []
    properties = SimpleNamespace(
        uuid="GPU-1",
        multi_processor_count=132,
        name="NVIDIA H200",
        memory_clock_rate=3201000,
        memory_bus_width=6144,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(compile_cache, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(occupancy, "_ask", lambda index: asked.append(index) or CLUSTERS)
    occupancy.of_device.cache_clear()
    yield asked
    occupancy.of_device.cache_clear()


def test_a_size_between_two_that_are_known_is_taken_as_the_larger():
    gpu = Occupancy(132, CLUSTERS, "NVIDIA H200", 4.8e12)
    assert [gpu.resident(size) for size in (1, 2, 3, 4, 8)] == [132, 66, 31, 31, 14]
    assert [Occupancy.assumed(132).resident(size) for size in (1, 2, 4, 8)] == [132, 66, 32, 16]


def test_the_gpu_is_asked_once_and_by_no_later_process(asked):
    for _ in range(2):
        occupancy.of_device.cache_clear()  # as in a new process
        assert occupancy.of_device(0) == Occupancy(132, CLUSTERS, "NVIDIA H200", 4.916736e12)
    assert asked == [0]


def test_a_pytorch_that_does_not_know_the_memory_gets_that_of_an_h200(asked, monkeypatch):
    properties = SimpleNamespace(uuid="GPU-1", multi_processor_count=132, name="NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert occupancy.of_device(0).memory_bandwidth == 4.8e12


@pytest.mark.parametrize("kept", ["", "[66, 31", "[66, 31]", '{"2": 66}', '[66, 31, "14"]', "\ufeff[1, 2, 3]"])
def test_a_damaged_answer_is_asked_for_again(asked, tmp_path, kept):
    occupancy.of_device(0)
    (path,) = (tmp_path / "cache").glob("clusters-*.json")
    path.write_text(kept, encoding="utf-8")
    occupancy.of_device.cache_clear()
    assert occupancy.of_device(0).clusters == CLUSTERS
    assert asked == [0, 0]


def test_an_answer_that_can_not_be_kept_is_used(asked, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert occupancy.of_device(0).clusters == CLUSTERS
