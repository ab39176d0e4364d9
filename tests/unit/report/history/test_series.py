"""Series over time: the machine's part is taken out, levels are judged, and what else changed is told."""

from __future__ import annotations

import math
from copy import copy

import pytest
from copies import replace
from simulated_histories import KERNEL, RUNS, Planted, cell, run_facts, simulate

from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.history.series import History, Series, Verdict, make_history, what_moved
from w8a8_bench.results.history_index import Times

THRESHOLD = 0.01


def of_kernel(history: History, number: int = 0) -> Series:
    return next(one for one in history.series if one.kernel == KERNEL and one.problem.m == 16 * (number + 1))


def steady(logs: list[float], *, kernel: str = KERNEL, number: int = 0, runs=None) -> list[Times]:
    """A time a run."""
    runs = runs or [run_facts(i) for i in range(len(logs))]
    return [Times(run, cell(number, kernel), 1e-5 * math.exp(log), 1e-8, "ok", "") for run, log in zip(runs, logs)]  # noqa: B905


@pytest.mark.parametrize("step", [0.02, -0.02])
def test_steps_of_2_percent_are_found_within_three_runs_and_few_others(step):
    """200 series of 60 runs each way."""
    every = {number: Planted(at=8 + number % 45, step=step) for number in range(200)}
    history = make_history(simulate(every, 200, seed=1))
    found = false = points = 0
    for number, planted in every.items():
        one = of_kernel(history, number)
        places = [history.runs.index(change.after) for change in one.changes]
        found += any(abs(place - planted.at) <= 3 for place in places)
        false += sum(abs(place - planted.at) > 3 for place in places)
        points += len(one.points)
    assert found >= 0.95 * len(every)
    assert false <= points / 1000


def test_where_nothing_changed_nothing_is_found_although_the_machine_wanders():
    history = make_history(simulate({}, 200, seed=2))
    ours = [one for one in history.series if not one.is_baseline]
    assert sum(len(one.changes) for one in ours) <= sum(len(one.points) for one in ours) / 1000
    assert len(history.worse(THRESHOLD)) <= 2


def test_a_drift_of_3_tenths_a_run_is_found_by_its_end():
    every = {number: Planted(at=20 + number % 30, drift=0.003) for number in range(60)}
    found = 0
    for number, planted in every.items():
        times = simulate({0: planted}, 1, seed=number, runs=planted.at + 10)
        found += Verdict.WORSE is of_kernel(make_history(times)).verdict(THRESHOLD)
    assert found >= 0.95 * len(every)


def test_many_small_drifts_add_up():
    logs = [0.005 * (number // 6) for number in range(60)]
    history = make_history(steady(logs))
    (worse,) = history.worse(THRESHOLD)
    assert worse.worse_by[0] == pytest.approx(0.045, abs=0.004)


def test_what_a_machine_does_to_all_is_no_change():
    machine = [0.0] * 20 + [0.03] * 20
    times = steady(machine)
    for number in range(8):
        times += steady(machine, kernel=BASELINE, number=number, runs=[one.run for one in times[:40]])
    history = make_history(times)
    assert not of_kernel(history).changes
    assert not history.worse(THRESHOLD)
    assert all(one.changes for one in history.series if one.is_baseline)
    ((device, change),) = history.machine_changes
    assert (device, change.after) == ("NVIDIA H200", history.runs[20])
    assert change.log == pytest.approx(0.03, abs=0.001)
    points = of_kernel(history).points
    assert points[-1].log == pytest.approx(points[0].log, abs=1e-6)


def test_baselines_of_another_torch_begin_anew():
    runs = [run_facts(number, torch="2.13.0" if number < 20 else "2.14.0") for number in range(40)]
    times = steady([0.0] * 40, runs=runs)
    for number in range(8):
        times += steady([0.0] * 20 + [0.1] * 20, kernel=BASELINE, number=number, runs=runs)
    history = make_history(times)
    assert not of_kernel(history).changes, "a slower cuBLAS made our kernel look faster"
    baseline = next(one for one in history.series if one.is_baseline)
    assert "torch 2.13.0 to 2.14.0" in baseline.changes[0].moved


def test_the_newest_level_is_judged_by_the_best_that_lasted():
    assert of_kernel(make_history(steady([0.0] * 6 + [0.02] * 6))).verdict(THRESHOLD) is Verdict.WORSE
    assert of_kernel(make_history(steady([0.02] * 6 + [0.0] * 6))).verdict(THRESHOLD) is Verdict.STEADY
    assert of_kernel(make_history(steady([0.0] * 6 + [0.02] * 6 + [0.0] * 6))).verdict(THRESHOLD) is Verdict.STEADY
    short = of_kernel(make_history(steady([0.02] * 6 + [0.0] * 2 + [0.02] * 6)))
    assert short.fit.odd == {6, 7}, "two runs are no level that lasted"
    assert short.verdict(THRESHOLD) is Verdict.STEADY
    assert of_kernel(make_history(steady([0.0, 0.05, 0.1]))).verdict(THRESHOLD) is Verdict.FEW
    assert of_kernel(make_history(steady([0.0] * 6 + [0.02] * 6))).verdict(0.03) is Verdict.STEADY


def test_what_is_no_longer_timed_is_broken():
    times = steady([0.0] * 6)
    newest = Times(run_facts(6), cell(0), None, 0.0, "incorrect", "3 of 9 elements wrong")
    history = make_history([*times, newest])
    (one,) = history.broken(THRESHOLD)
    assert (one.status, one.reason) == ("incorrect", "3 of 9 elements wrong")
    assert not make_history([newest, *steady([0.0] * 9)]).broken(THRESHOLD), "it was mended, or is timed in that run"
    assert make_history([*times, Times(run_facts(6), cell(0), None, 0.0, "unsupported", "no")]).broken(THRESHOLD)
    assert not make_history([*times, Times(run_facts(6), cell(0), None, 0.0, "skipped", "late")]).broken(THRESHOLD)
    assert not make_history([newest]).series


def test_series_that_the_newest_run_lacks_are_counted():
    times = [*steady([0.0] * 6), *steady([0.0] * 5, number=1)]
    assert make_history(times).gone == 1
    assert make_history(times[:-5]).gone == 0


def test_a_copy_of_a_run_is_no_run():
    times = steady([0.0] * 8 + [0.05])
    copied = [replace_run(one, "copy.jsonl") for one in times]
    assert not make_history([*times, *copied]).worse(THRESHOLD)
    assert len(of_kernel(make_history([*times, *copied])).points) == 9


def test_runs_are_in_order_of_time_in_whatever_zone_it_is_written():
    times = steady([0.0] * 4 + [0.05] * 4)
    run = times[0].run
    object.__setattr__(run, "time", "2026-01-01T01:00:00+02:00")  # an hour before midnight, UTC
    assert make_history(times[::-1]).runs[0] is run
    object.__setattr__(run, "time", "yesterday")
    with pytest.raises(ValueError, match=r"run00\.jsonl: `time` in its header is 'yesterday', which is no"):
        make_history(times)


def test_a_baseline_fails_no_gate():
    history = make_history(steady([0.0] * 9 + [0.05] * 9, kernel=BASELINE))
    assert history.series[0].verdict(THRESHOLD) is Verdict.WORSE
    assert not history.worse(THRESHOLD)


def test_runs_are_in_order_of_time_whatever_file_came_first():
    times = steady([0.0] * 4 + [0.05] * 4)
    history = make_history(times[::-1])
    assert [run.file for run in history.runs] == [f"run{number:02}.jsonl" for number in range(8)]
    assert of_kernel(history).changes[0].after is history.runs[4]


@pytest.mark.parametrize(
    ("facts", "cards", "expected"),
    [
        ({}, ("GPU-1",), ()),
        ({"git_revision": "abcdef0123456789+changes"}, ("GPU-1",), ("code 000000000 to abcdef012+changes",)),
        (
            {"torch": "2.14.0", "providers.vllm": "0.33.0"},
            ("GPU-1",),
            ("torch 2.13.0 to 2.14.0", "vllm 0.23.0 to 0.33.0"),
        ),
        ({"platform": "Linux-7"}, ("GPU-1",), ("another host",)),
        ({"platform": "Linux-7"}, ("GPU-2-a", "GPU-3-b"), ("GPU GPU-1 to GPU-2, GPU-3",)),
        ({"new_fact": 1}, ("GPU-1",), ()),
    ],
)
def test_what_else_changed_is_told(facts, cards, expected):
    before = run_facts(0, **{"providers.vllm": "0.23.0", "platform": "Linux-6"})
    after = copy(before)
    object.__setattr__(after, "facts", {**before.facts, **facts})
    object.__setattr__(after, "cards", cards)
    assert what_moved(before, after, {}) == expected


def test_series_of_other_conditions_are_other_series():
    other = cell(0).replace('"normal"', '"zeros"')
    times = steady([0.0] * 6) + [replace_cell(one, other) for one in steady([0.5] * 6)]
    assert len(make_history(times).series) == 2
    assert len(make_history(simulate({}, 3, seed=0)).runs) == RUNS


def replace_run(one: Times, file: str) -> Times:
    return replace(one, run=replace(one.run, file=file))


def replace_cell(one: Times, name: str) -> Times:
    return replace(one, cell=name)
