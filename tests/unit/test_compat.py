"""The original's form of a record: its timer is the task's `env`, and `Compare` keeps different timers apart."""

from __future__ import annotations

import pickle

import pytest
import torch
from copies import replace
from made_results import record

from w8a8_bench import compat
from w8a8_bench.environment import detect
from w8a8_bench.kernel import Status
from w8a8_bench.problem.formats import Format
from w8a8_bench.timing.measures import HOST_LAUNCH, MEANINGS, TIME_COLD, TIME_EVENT, TIME_HOST, TIME_HOT, TIME_KERNEL

INT8 = "pytorch_i8_i8_bf16_scaled_mm"


def of(*measures: str):
    samples = {measure: tuple(1e-5 * (index + 1) for _ in range(6)) for index, measure in enumerate(measures)}
    made = record(INT8, samples=samples, launches_per_sample=dict.fromkeys(measures, 3))
    return compat.measurement(made, "L", "S")


def test_every_time_has_an_env_of_its_own():
    envs = [of(measure).task_spec.env for measure in MEANINGS]
    assert None not in envs
    assert len(set(envs)) == len(MEANINGS)


@pytest.mark.parametrize(
    ("measures", "env"),
    [
        ((TIME_COLD, TIME_HOT, HOST_LAUNCH), "graph, cold L2"),
        ((TIME_HOT, TIME_KERNEL), "graph, hot L2"),
        ((TIME_EVENT, HOST_LAUNCH), "events, cold L2"),
        ((TIME_HOST, TIME_KERNEL), "host"),
        ((TIME_KERNEL,), "profiler, cold L2"),
    ],
)
def test_a_measurement_is_of_the_headline_and_says_its_timer(measures, env):
    one = of(*measures)
    assert one.task_spec.env == env
    assert one.median == pytest.approx(1e-5)
    assert one.number_per_run == 3
    assert one.raw_times == pytest.approx([3e-5] * 6)


def test_compare_keeps_graph_and_host_times_apart():
    table = compat.compare_table([of(TIME_COLD), of(TIME_HOST)])
    assert "(graph, cold L2)" in table
    assert "(host)" in table
    assert len([line for line in table.splitlines() if line.lstrip().startswith(("(", "S ")) and "|" in line]) == 2
    same = compat.compare_table([of(TIME_HOST), of(TIME_HOST)])
    assert "graph" not in same


def test_a_pickled_measurement_keeps_its_timer():
    assert pickle.loads(pickle.dumps(of(TIME_COLD))).task_spec.env == "graph, cold L2"


def test_a_cell_that_is_not_ok_is_in_no_table_though_it_has_samples():
    implausible = record(INT8, 1e-9, status=Status.IMPLAUSIBLE, reason="too fast")
    assert compat.measurements([implausible], []) == []


def test_a_shape_that_memory_has_no_room_for_is_refused_before_it_is_made(monkeypatch):
    device = replace(detect.resolve_device("cpu"), available_bytes=1 << 30)
    monkeypatch.setattr(detect, "resolve_device", lambda wanted: device)
    with pytest.raises(ValueError, match=r"needs about .* GiB and .* has 1\.0 GiB free"):
        compat.bench_int8(torch.int8, 40000, 40000, 40000, "L", "S")


def test_records_that_say_ok_and_hold_no_samples_as_a_file_may_are_in_no_pickle():
    one = record("pytorch_i8_i8_bf16_scaled_mm", 1e-3)
    without = [replace(one, samples={}), replace(one, samples={"time_host": ()})]
    unlike = replace(one, launches_per_sample={})
    taken = compat.measurements([*without, unlike, one], (Format.INT8,))
    assert [measured.number_per_run for measured in taken] == [1, one.launches_per_sample["time_host"]]
