"""Randomized complete blocks: every cell once a block, in shuffled order, until all have settled.

A block is the unit of comparison: drift and heat fall on all its cells alike, so ratios are formed inside blocks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from w8a8_bench.settings import StopRule


@dataclass
class BlockSamples:
    """Samples by cell, one list a measure, each with a sample of every block."""

    samples: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    blocks: int = 0


def run_blocks(
    cells: Mapping[int, Callable[[], Mapping[str, float]]],
    *,
    rule: StopRule,
    headline: str,
    deadline: float | None,
    seed: int,
    after_block: Callable[[int], None],
) -> BlockSamples:
    """Time `cells` (each call returns one sample of every measure) until `rule` or `deadline` (perf_counter) ends it.

    The first block is always run, so that whatever was made ready has a sample. A later block that would outlast the
    deadline, judged by the longest so far, is not begun.
    """
    taken = BlockSamples({index: {} for index in cells})
    order, shuffle = list(cells), random.Random(seed).shuffle
    longest = 0.0
    while order and taken.blocks < rule.max_blocks:
        start = time.perf_counter()
        if deadline is not None and taken.blocks and start + longest > deadline:
            break
        shuffle(order)
        for index in order:
            for measure, seconds in cells[index]().items():
                taken.samples[index].setdefault(measure, []).append(seconds)
        longest = max(longest, time.perf_counter() - start)
        taken.blocks += 1
        after_block(taken.blocks)
        if taken.blocks >= rule.min_blocks and all(
            rule.settled(measures[headline]) for measures in taken.samples.values() if headline in measures
        ):
            break
    return taken
