"""Settings reach the process that obeys them unchanged, and say how many passes the measures need."""

from __future__ import annotations

import json

import msgspec
import pytest
from copies import replace

from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_COLD, TIME_HOST, TIME_HOT, TIME_KERNEL, Timer
from w8a8_bench.timing.settings import CPU_BUDGET_S, DEFAULT_RIGOR, RIGORS, Settings, StopRule

FULL = Settings(
    seed=7,
    data=Distribution.OUTLIERS,
    budget_s=2.5,
    may_skip=False,
    stop=StopRule(min_blocks=30, max_blocks=200, target=0.0025),
    timer=Timer.EVENT,
    measures=(TIME_COLD, TIME_HOT, TIME_KERNEL),
    duty=0.25,
    processes=5,
    workers=3,
    most_sets=64,
)


@pytest.mark.parametrize("settings", [FULL, Settings()], ids=["all fields", "defaults"])
def test_settings_survive_the_way_to_the_worker(settings: Settings) -> None:
    assert msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(settings), allow_nan=False)), Settings) == settings


def test_the_profiler_has_a_pass_and_so_a_process_of_its_own() -> None:
    timed, profiled = FULL.passes()
    assert timed == replace(FULL, measures=(TIME_COLD, TIME_HOT))
    assert profiled == replace(FULL, measures=(TIME_KERNEL,))


@pytest.mark.parametrize("measures", [(TIME_KERNEL,), (TIME_COLD,), (TIME_COLD, TIME_HOT, HOST_LAUNCH), (TIME_HOST,)])
def test_without_the_profiler_or_with_it_alone_one_pass_is_enough(measures) -> None:
    settings = replace(FULL, measures=measures)
    assert settings.passes() == (settings,)


def test_the_headline_of_settings_is_the_first_measure_by_precedence() -> None:
    assert replace(FULL, measures=(TIME_KERNEL, TIME_HOT, TIME_COLD)).headline == TIME_COLD
    assert [one.headline for one in FULL.passes()] == [TIME_COLD, TIME_KERNEL]


def test_a_grid_of_many_cells_has_more_time_by_default() -> None:
    assert [Settings().with_default_budget(cells, cuda=True).budget_s for cells in (0, 12, 60, 170)] == [
        60,
        60,
        60,
        170,
    ]
    on_a_gpu = FULL.with_default_budget(170, cuda=True)
    assert (on_a_gpu.budget_s, on_a_gpu.may_skip) == (170, True)


def test_the_default_budget_of_a_cpu_skips_nothing() -> None:
    on_a_cpu = Settings().with_default_budget(170, cuda=False)
    assert (on_a_cpu.budget_s, on_a_cpu.may_skip) == (CPU_BUDGET_S, False)


def test_rigors_are_those_that_the_documents_promise() -> None:
    assert {name: (r.stop.min_blocks, r.stop.max_blocks, r.stop.target) for name, r in RIGORS.items()} == {
        "quick": (6, 12, 0.01),
        "standard": (12, 40, 0.005),
        "publish": (30, 200, 0.0025),
    }
    assert RIGORS["publish"].processes > 1, "fresh processes are what `publish` adds"
    assert RIGORS[DEFAULT_RIGOR].stop == Settings().stop
