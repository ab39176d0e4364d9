"""Randomized complete blocks: every cell once a block, in shuffled order, until all have settled.

A block is the unit of comparison: drift and heat fall on all its cells alike, so ratios are formed inside blocks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from w8a8_bench.timing.method import Sample
from w8a8_bench.timing.settings import StopRule

Cells = Mapping[int, Callable[[], Mapping[str, Sample]]]
"""By cell, a function that takes one sample of every measure. A cell that broke gives none."""

SETTLE_ROUNDS = 8
SETTLE_CHANGE = 0.003
"""Warming up ends when a round takes so little longer or shorter than the one before, or after `SETTLE_ROUNDS`."""


@dataclass
class BlockSamples:
    """Samples by cell, one list a measure, each with a sample of every block that counted."""

    samples: dict[int, dict[str, list[Sample]]] = field(default_factory=dict)
    blocks: int = 0
    voided: int = 0
    settling: int = 0

    def seconds(self, cell: int, measure: str) -> list[float]:
        return [sample.seconds for sample in self.samples[cell].get(measure, ())]


def settle(cells: Cells, headline: str, deadline: float | None) -> int:
    """Run rounds that don't count until clock and time stop trending, or `deadline`; returns how many."""
    before = 0.0
    for rounds in range(1, SETTLE_ROUNDS + 1):
        taken = [cell().get(headline) for cell in cells.values()]
        total = sum(sample.seconds for sample in taken if sample)
        if abs(total - before) <= SETTLE_CHANGE * total or (deadline is not None and time.perf_counter() > deadline):
            return rounds
        before = total
    return SETTLE_ROUNDS


def run_blocks(
    cells: Cells,
    *,
    rule: StopRule,
    headline: str,
    deadline: float | None,
    seed: int,
    after_block: Callable[[int], None],
    void: Callable[[], bool] = lambda: False,
) -> BlockSamples:
    """Time `cells` until `rule` or `deadline` (perf_counter) ends it.

    The first block is always run, so that whatever was made ready has a sample. A later block that would outlast the
    deadline, judged by the longest so far, is not begun. If `void` says after a block that it does not count, the
    block is taken again, at most `rule.max_blocks` times in all.
    """
    taken = BlockSamples({index: {} for index in cells})
    order, shuffle = list(cells), random.Random(seed).shuffle
    longest = 0.0
    while order and taken.blocks < rule.max_blocks and taken.voided < rule.max_blocks:
        start = time.perf_counter()
        if deadline is not None and taken.blocks + taken.voided and start + longest > deadline:
            break
        shuffle(order)
        block = {index: cells[index]() for index in order}
        longest = max(longest, time.perf_counter() - start)
        if void():
            taken.voided += 1
            continue
        for index, measures in block.items():
            for measure, sample in measures.items():
                taken.samples[index].setdefault(measure, []).append(sample)
        taken.blocks += 1
        after_block(taken.blocks)
        if taken.blocks >= rule.min_blocks and all(
            rule.settled(taken.seconds(index, headline))
            for index, measures in taken.samples.items()
            if headline in measures
        ):
            break
    return taken
