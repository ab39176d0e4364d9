"""Randomized complete blocks: every cell once a block, in shuffled order, until all have settled.

A block is the unit of comparison: drift and heat fall on all its cells alike, so ratios are formed inside blocks. A GPU
warms up first: blocks don't count while clock and time still trend.
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
"""The first block that counts is one that takes so little longer or shorter than the one before, or the last of
`SETTLE_ROUNDS`."""


@dataclass
class BlockSamples:
    """Samples by cell, one list a measure, each with a sample of every block that counted.

    Blocks did not count if they were void, or if the device was `settling`.
    """

    samples: dict[int, dict[str, list[Sample]]] = field(default_factory=dict)
    blocks: int = 0
    voided: int = 0
    settling: int = 0

    def seconds(self, cell: int, measure: str) -> list[float]:
        return [sample.seconds for sample in self.samples[cell].get(measure, ())]


def run_blocks(
    cells: Cells,
    *,
    rule: StopRule,
    headline: str,
    deadline: float | None,
    seed: int,
    after_block: Callable[[int], None],
    void: Callable[[], bool] = lambda: False,
    warm_up: bool = False,
    forget: Callable[[], None] = lambda: None,
) -> BlockSamples:
    """Time `cells` until `rule` or `deadline` (perf_counter) ends it.

    The first block is always run, so that whatever was made ready has a sample. A later block that would outlast the
    deadline, judged by the longest so far, is not begun. If `void` says after a block that it does not count, the
    block is taken again, at most `rule.max_blocks` times in all. With `warm_up` the first blocks don't count, until
    one takes as long as the one before it or the deadline is over; `forget` is called after each of them.
    """
    taken = BlockSamples({index: {} for index in cells})
    order, shuffle = list(cells), random.Random(seed).shuffle
    longest = before = 0.0
    while order and taken.blocks < rule.max_blocks and taken.voided < rule.max_blocks:
        start = time.perf_counter()
        if deadline is not None and taken.blocks + taken.voided and start + longest > deadline:
            break
        shuffle(order)
        block = {index: cells[index]() for index in order}
        longest = max(longest, time.perf_counter() - start)
        if warm_up:
            total = sum(measures[headline].seconds for measures in block.values() if headline in measures)
            late = deadline is not None and time.perf_counter() > deadline
            settled = late or abs(total - before) <= SETTLE_CHANGE * total
            if not settled and taken.settling + 1 < SETTLE_ROUNDS:
                taken.settling += 1
                before = total
                forget()
                continue
            warm_up = False
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
