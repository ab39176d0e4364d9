"""The guess of how long a sweep takes, and how it follows what was measured."""

from __future__ import annotations

import pytest

from w8a8_bench.bench import estimate
from w8a8_bench.bench.estimate import Pace, comparison_s, duration
from w8a8_bench.bench.plan import make_plan
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.timing.settings import Settings

KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")


def plan(*sizes: int):
    shapes = [LabelledShape(GemmShape(m=size, n=size, k=size)) for size in sizes]
    return make_plan(shapes, KERNELS, (Format.INT8,))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (83, "1 min 20 s"),
        (598, "10 min"),
        (3599, "1 h"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("cuda", [True, False])
def test_more_work_is_estimated_to_take_longer(cuda):
    small, large = (comparison_s(one, Settings(), cuda=cuda) for one in plan(256, 8192))
    assert 0 < small < large
    (one,) = plan(256)
    thorough = Settings(processes=5, duty=0.25)
    assert comparison_s(one, thorough, cuda=cuda) > 2 * comparison_s(one, Settings(), cuda=cuda)


def test_a_comparison_is_estimated_within_its_budget():
    (one,) = plan(16384)
    assert comparison_s(one, Settings(budget_s=3.0), cuda=False) == 3.0


def test_time_left_follows_the_pace_of_what_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(estimate, "comparison_s", lambda comparison, settings, cuda: 10.0)
    pace = Pace(plan(*[64] * 10), Settings(), cuda=True, devices=1)
    assert pace.whole_s == pace.left_s() == 100
    now[0] = 20.0
    pace.at(0, 1.0)  # took twice as long as was guessed
    assert pace.left_s() == pytest.approx(1.5 * 90), "a tenth is done: the guess counts as much as the pace"
    for index in range(5):
        pace.finished(index)
    now[0] = 100.0
    assert pace.left_s() == pytest.approx(50 * 110 / 60)
    for index in range(5, 10):
        pace.finished(index)
    assert pace.left_s() == 0


def test_several_devices_share_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(estimate, "comparison_s", lambda comparison, settings, cuda: 10.0)
    pace = Pace(plan(*[64] * 10), Settings(), cuda=True, devices=2)
    assert pace.whole_s == 50
    pace.finished(0)
    pace.finished(1)
    now[0] = 10.0
    assert pace.left_s() == 40
