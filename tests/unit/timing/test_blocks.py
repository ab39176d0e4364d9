"""Blocks: every cell once a block, shuffled, until all have settled or time is up; void ones are taken again."""

from __future__ import annotations

import itertools
import time

import pytest

from w8a8_bench.timing import blocks as blocks_module
from w8a8_bench.timing.blocks import SETTLE_ROUNDS, run_blocks
from w8a8_bench.timing.method import Sample, rest_after
from w8a8_bench.timing.settings import StopRule


def t(seconds: float, **others: float) -> dict[str, Sample]:
    """What a cell gives: a sample of `t`, and of other measures."""
    return {name: Sample(value) for name, value in {"t": seconds, **others}.items()}


def run(cells, *, deadline=None, rule=None, seed=1, void=lambda: False, after_block=lambda block: None):
    rule = rule or StopRule(min_blocks=6, max_blocks=20, target=0.01)
    return run_blocks(cells, rule=rule, headline="t", deadline=deadline, seed=seed, after_block=after_block, void=void)


def orders(seed: int, blocks: int = 12) -> list[tuple[int, ...]]:
    """The order of four cells in each block."""
    order: list[int] = []

    def cell(index):
        return lambda: (order.append(index), t(1.0))[1]

    run({index: cell(index) for index in range(4)}, rule=StopRule(blocks, blocks), seed=seed)
    return [tuple(order[start : start + 4]) for start in range(0, len(order), 4)]


def test_every_block_holds_every_cell_once_in_changing_order():
    order: list[int] = []

    def cell(index):
        def sample():
            order.append(index)
            return t(1.0 + (len(order) % 7) / 10)

        return sample

    taken = run({index: cell(index) for index in range(4)})
    blocks = [order[start : start + 4] for start in range(0, len(order), 4)]
    assert taken.blocks == 20
    assert all(sorted(block) == [0, 1, 2, 3] for block in blocks)
    assert len({tuple(block) for block in blocks}) > 5
    assert all(len(measures["t"]) == 20 for measures in taken.samples.values())


def test_settled_cells_end_the_comparison_and_none_leaves_before_the_last():
    calls = [0]

    def late():
        calls[0] += 1
        return t(2.0 if calls[0] < 4 else 1.0 + 1e-6 * calls[0])

    taken = run({0: lambda: t(1.0), 1: late})
    assert 6 <= taken.blocks < 20
    assert len(taken.samples[0]["t"]) == len(taken.samples[1]["t"]) == taken.blocks


def test_a_deadline_that_has_passed_leaves_one_block():
    taken = run({0: lambda: t(1.0), 1: lambda: t(1.0)}, deadline=time.perf_counter() - 1)
    assert taken.blocks == 1
    assert taken.samples == {0: {"t": [Sample(1.0)]}, 1: {"t": [Sample(1.0)]}}


def test_a_block_that_would_outlast_the_deadline_is_not_begun():
    taken = run({0: lambda: (time.sleep(0.05), t(1.0))[1]}, deadline=time.perf_counter() + 0.12)
    assert 1 <= taken.blocks <= 2


def test_the_order_is_that_of_the_seed():
    assert orders(seed=1) == orders(seed=1)
    assert orders(seed=1) != orders(seed=2)
    assert all(sorted(block) == [0, 1, 2, 3] for block in orders(seed=3))


def test_samples_of_every_measure_are_kept_with_their_clock():
    taken = run({0: lambda: {"t": Sample(1.0, 1980.0), "other": Sample(2.0)}}, rule=StopRule(3, 3))
    assert taken.samples == {0: {"t": [Sample(1.0, 1980.0)] * 3, "other": [Sample(2.0)] * 3}}
    assert taken.seconds(0, "other") == [2.0] * 3
    assert taken.seconds(0, "none") == []


def test_a_void_block_is_taken_again_and_leaves_no_sample():
    calls = [0]

    def cell():
        calls[0] += 1
        return t(float(calls[0]))

    verdicts = iter([False, True, True, False, False, True])
    seen: list[int] = []
    taken = run({0: cell}, rule=StopRule(3, 3), void=lambda: next(verdicts), after_block=seen.append)
    assert (taken.blocks, taken.voided) == (3, 2)
    assert taken.seconds(0, "t") == [1.0, 4.0, 5.0], "the samples of void blocks count"
    assert seen == [1, 2, 3], "progress counts void blocks"


def test_a_gpu_that_never_cools_ends_the_comparison_without_a_sample():
    calls = [0]

    def cell():
        calls[0] += 1
        return t(1.0)

    taken = run({0: cell}, rule=StopRule(2, 5), void=lambda: True)
    assert (taken.blocks, taken.voided, calls[0]) == (0, 5, 5)
    assert taken.samples == {0: {}}


def test_void_blocks_end_at_the_deadline_like_others():
    taken = run({0: lambda: t(1.0)}, void=lambda: True, deadline=time.perf_counter() - 1)
    assert (taken.blocks, taken.voided) == (0, 1)


def test_nothing_to_time_is_no_block():
    assert run({}).blocks == 0


def test_a_cell_that_broke_does_not_keep_the_others_going():
    taken = run({0: dict, 1: lambda: t(1.0)})
    assert taken.blocks == 6
    assert taken.samples[0] == {}


def warm(*totals: float, deadline: float | None = None):
    """What is taken of cells whose headline adds up to one of `totals` a round, the last for ever; the totals that
    counted, and how often what was seen was to be forgotten."""
    rounds, forgotten = itertools.count(), [0]

    def cell():
        return t(totals[min(next(rounds), len(totals) - 1)])

    def forget():
        forgotten[0] += 1

    taken = run_blocks(
        {0: cell, 1: lambda: {"u": Sample(99.0)}},
        rule=StopRule(3, 3),
        headline="t",
        deadline=deadline,
        seed=1,
        after_block=lambda block: None,
        warm_up=True,
        forget=forget,
    )
    assert forgotten[0] == taken.settling
    return taken


@pytest.mark.parametrize(
    ("totals", "settling"),
    [
        ((1.0,), 1),
        ((1.0, 1.0029), 1),
        ((1.0, 0.9972), 1),
        ((1.0, 1.004), 2),
        ((2.0, 1.5, 1.2, 1.1, 1.099), 4),
        (tuple(float(round_) for round_ in range(1, 30)), SETTLE_ROUNDS - 1),
    ],
)
def test_the_first_block_that_counts_takes_as_long_as_the_one_before(totals, settling):
    taken = warm(*totals)
    assert (taken.settling, taken.blocks, taken.voided) == (settling, 3, 0)
    expected = [totals[min(index, len(totals) - 1)] for index in range(settling, settling + 3)]
    assert taken.seconds(0, "t") == expected
    assert blocks_module.SETTLE_CHANGE < 0.01


def test_warming_up_ends_at_the_deadline_and_its_block_counts():
    taken = warm(1.0, 2.0, 3.0, deadline=time.perf_counter() - 1)
    assert (taken.settling, taken.blocks) == (0, 1)
    assert taken.seconds(0, "t") == [1.0]


def test_a_block_that_does_not_count_is_not_asked_whether_it_is_void():
    verdicts = iter([True, False, False])
    taken = run_blocks(
        {0: lambda: t(1.0)},
        rule=StopRule(2, 2),
        headline="t",
        deadline=None,
        seed=1,
        after_block=lambda block: None,
        void=lambda: next(verdicts),
        warm_up=True,
    )
    assert (taken.settling, taken.voided, taken.blocks) == (1, 1, 2), "a block that does not count was asked about"


@pytest.mark.parametrize(
    ("duty", "idle", "more"),
    [(0.5, 0.0, 3e-3), (0.5, 1e-3, 2e-3), (0.5, 4e-3, 0.0), (0.25, 1e-3, 8e-3), (1.0, 0.0, 0.0)],
)
def test_what_a_gpu_was_idle_already_counts_as_rest(monkeypatch, duty, idle, more):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "perf_counter", lambda: 7.0)
    assert rest_after(Sample(1e-5, idle_from=7.0 - idle), 7.0 - idle - 3e-3, duty) == pytest.approx(more)
    assert slept == [pytest.approx(more)]


def test_a_gpu_whose_last_work_is_not_known_rests_as_long_as_the_sample_took(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time, "perf_counter", lambda: 7.0)
    assert rest_after(Sample(1e-5), 6.0, 0.5) == 1.0
