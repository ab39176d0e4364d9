"""Runs that tests compare: made from a committed one, with the effects of run, shape and cell that two runs have."""

from __future__ import annotations

import random
from collections.abc import Callable

from copies import replace
from made_results import changed

from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import Record

COLD = "time_cold_l2"
RUN_SD, SHAPE_SD, CELL_SD = 0.0003, 0.0004, 0.0008
"""Of the differences between two runs, as measured: see `compare.run_variance`."""


def drawn(
    results: Results,
    seed: int,
    *,
    factor: Callable[[Record], float] = lambda record: 1.0,
    shape_factor: Callable[[int], float] = lambda index: 1.0,
    cell_sd: float = CELL_SD,
) -> Results:
    """Another run of the cells of `results`: its samples drawn from theirs, then shifted by effects of their own.

    Effects of cells have the long tails of Student's t of 4 degrees. `factor` is what the code of a cell changed,
    `shape_factor` what befell all cells of a shape.
    """
    rng = random.Random(seed)
    half = 2**-0.5  # two runs differ by the effects of both
    run = rng.gauss(0, RUN_SD * half)
    of_shape = {e.index: shape_factor(e.index) * (1 + run + rng.gauss(0, SHAPE_SD * half)) for e in results.ends}

    def again(samples: tuple[float, ...], shift: float) -> tuple[float, ...]:
        long_tailed = rng.gauss(0, 1) / (rng.gammavariate(2, 2) / 4) ** 0.5
        shift *= 1 + cell_sd * half * long_tailed / 2**0.5
        return tuple(shift * sample for sample in rng.choices(samples, k=len(samples)))

    records = [
        replace(one, samples={COLD: again(one.samples[COLD], factor(one) * of_shape[one.comparison])})
        for one in results.records
    ]
    ends = []
    for end in results.ends:
        samples, _ = end.duplicate_samples(COLD)
        ends.append(replace(end, duplicate={**end.duplicate, "samples": {COLD: again(samples, of_shape[end.index])}}))
    return changed(results, records, ends)
