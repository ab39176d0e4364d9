"""Blocks: every cell once a block, in shuffled order, until all have settled or time is up."""

from __future__ import annotations

import time

from w8a8_bench.settings import StopRule
from w8a8_bench.timing.blocks import run_blocks


def run(cells, *, deadline=None, rule=None):
    rule = rule or StopRule(min_blocks=6, max_blocks=20, target=0.01)
    return run_blocks(cells, rule=rule, headline="t", deadline=deadline, seed=1, after_block=lambda block: None)


def test_every_block_holds_every_cell_once_in_changing_order():
    order: list[int] = []

    def cell(index):
        def sample():
            order.append(index)
            return {"t": 1.0 + (len(order) % 7) / 10}

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
        return {"t": 2.0 if calls[0] < 4 else 1.0}

    taken = run({0: lambda: {"t": 1.0}, 1: late})
    assert 6 <= taken.blocks < 20
    assert len(taken.samples[0]["t"]) == len(taken.samples[1]["t"]) == taken.blocks


def test_a_deadline_that_has_passed_leaves_one_block():
    taken = run({0: lambda: {"t": 1.0}, 1: lambda: {"t": 1.0}}, deadline=time.perf_counter() - 1)
    assert taken.blocks == 1
    assert taken.samples == {0: {"t": [1.0]}, 1: {"t": [1.0]}}


def test_a_block_that_would_outlast_the_deadline_is_not_begun():
    taken = run({0: lambda: (time.sleep(0.05), {"t": 1.0})[1]}, deadline=time.perf_counter() + 0.12)
    assert 1 <= taken.blocks <= 2
