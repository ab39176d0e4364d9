"""By how much two runs of the same code differ, so that what is more can be called a change.

A run is one draw: memory lies where it lies, each graph is captured once, the GPU is as warm as it is. Two runs of the
same code therefore differ by more than the intervals within either of them say. Here

    ln(new / base) = change of the code + effect of run and shape + effect of the cell + samples

with a variance for each of the last three. That of the samples comes from them. That of the cell is what was measured
(`CELL_SD`), or more if the baseline and its duplicate, timed apart in one run, differ by more. That of run and shape
falls on all cells of a shape alike. If versions are equal, the 16-bit baselines are the same code in both runs: they
are anchors. If they moved, the machine caused it, so their moves widen the intervals of the cells beside them.

Several base runs of one plan are one base: its ln time of a cell is the mean of theirs. One run has half the variance
of the difference of two, so against the mean of k runs each effect has (1 + 1/k) / 2 of the variance above, and the
samples of the base have 1/k of one run's. How far a cell's base times are apart tells of all three effects and of the
samples at once. This spread has k - 1 degrees of freedom, which join the `DEGREES` of the variance that is assumed, as
in Smyth's moderated t (2004). Only what exceeds the assumed variance counts, so that bases which happen to agree prove
nothing.

If one of k base runs is off by d, their mean is off by d/k, and its standard deviation grows with d: d/k is at most
sqrt((9 + k) / (k^2 - 1)) of it, 1.9 for k = 2. So one odd base decides no verdict. Since it may be odd in all cells of
a kernel alike, this part does not average out in a kernel's mean.

Times are compared as they are, not over the baseline's: between two sweeps of an H200
(`results/h200/llama2_7b_28_shapes_run1.jsonl.gz`, `_run2`), times differ by 0.13% (standard deviation over the cells),
ratios to the baseline by 0.16%, since they hold the baseline's noise too. With other cells and measures beside them
(`results/h200/model_fp8_llama2_7b.jsonl.gz`), all times of a shape moved together by up to 5%, and the others by up to
1.7 times as much as the baseline's: it tells that the machine moved, but not by how much each cell did.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from w8a8_bench import stats
from w8a8_bench.analysis.metrics import duplicate
from w8a8_bench.analysis.pairing import ShapePair
from w8a8_bench.kernel import Status
from w8a8_bench.problem.kernel_name import is_anchor
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import Record
from w8a8_bench.stats import Variance, total_variance

CELL_SD = 0.001
SHAPE_SD = 0.0004
RUN_SD = 0.0004
"""Standard deviations of ln(new / base) for unchanged code: of a cell, of all cells of a shape, of all cells of a run.

The least that is assumed. Measured on an H200 by analysis of variance over two sweeps of 280 cells: 0.0008, 0.0004 and
0.0003; the first by baselines and duplicates: 0.0011.
"""

DEGREES = 10
"""Degrees of freedom of these effects: few, since they have longer tails than a normal distribution."""

ELSEWHERE_CELL_SD = 0.002
ELSEWHERE_SHAPE_SD = 0.003
ELSEWHERE_DEGREES = 3
"""The same if other cells were timed beside or before these, as when several GPUs share the shapes: memory then lies
elsewhere. Of 7 pairs of sweeps on two H200s and an H100 with 13 or 14 shapes each (three of them are committed:
`results/h200/llama31_8b_one.jsonl.gz`, `_two_gpus`, `_dealt`), cells had 0.002 to 0.004, shapes 0.0012 to 0.0017; the
tails are long: single 16-bit cells moved by up to 3.7%, and the first shape of a process by 5%. With the same cells
before them, on the same cards: 0.0007 to 0.0009 and 0.0003 to 0.0009.
"""


@dataclass(frozen=True, slots=True)
class Shift:
    """A cell that both runs timed: `log` is ln(new / base), `samples` its variance; None if they are too few.

    Of several base runs, `base` is the first that timed it, `runs` how many did, and `spread` the variance that is
    added if they are farther apart than is assumed.
    """

    base: Record
    new: Record
    base_s: float
    new_s: float
    log: float
    samples: Variance | None
    runs: int = 1
    spread: Variance | None = None


@dataclass(frozen=True)
class Moved:
    """ln(new / base) of `cells` cells together, and the variance that it has from their samples."""

    log: float
    samples: float
    cells: int


@dataclass(frozen=True)
class Common:
    """What falls on all cells of a shape alike: its variance by shape, and the part of it that all shapes share.

    `moved` is what it was learned from, by shape; None if there is nothing to learn from.
    """

    shapes: tuple[Variance, ...]
    run: Variance
    moved: tuple[Moved | None, ...]


@dataclass(frozen=True)
class Effects:
    """Variances of ln(new / base) for unchanged code: of a cell, and common to a shape's cells.

    `cells` is by shape. `anchors` is what is common to an anchor and the cells beside it, by kernel; `common` is for
    the other cells.
    """

    cells: tuple[Variance, ...]
    common: Common
    anchors: Mapping[str, Common]

    def of(self, shift: Shift, shape: int) -> Variance | None:
        """Of one cell, samples included."""
        if shift.samples is None:
            return None
        common = self.anchors.get(shift.new.kernel, self.common)
        spread = [shift.spread] if shift.spread else []
        return total_variance([shift.samples, self.cells[shape], common.shapes[shape], *spread])

    def of_mean(self, placed: Sequence[tuple[int, Shift]]) -> Variance:
        """Of the mean of shifts with their shapes: the effects of cells and shapes average out, that of the run not."""
        n = len(placed)
        kernels = {one.new.kernel for _, one in placed}
        common = self.anchors.get(kernels.pop(), self.common) if len(kernels) == 1 else self.common
        shapes = [common.shapes[shape].scaled(cells / n) for shape, cells in Counter(s for s, _ in placed).items()]
        cells = total_variance([part for shape, one in placed for part in (one.samples, self.cells[shape]) if part])
        spreads = [math.sqrt(one.spread.value) for _, one in placed if one.spread]
        spread = [Variance((math.fsum(spreads) / n) ** 2, DEGREES)] if spreads else []
        return total_variance([common.run, *shapes, cells.scaled(1 / n), *spread])


def shift(base: Record, new: Record, measure: str, again: Sequence[Record] = ()) -> Shift | None:
    """From one base run or, with the same cell of others, several. None if no base or not `new` is `ok` with samples of
    `measure`."""
    timed = [one for one in (base, *again) if _is_timed(one, measure)]
    if not timed or not _is_timed(new, measure):
        return None
    count = len(timed)
    *ours_s, new_s = (stats.estimate(*_taken(one, measure)) for one in (*timed, new))
    logs = [math.log(seconds) for seconds in ours_s]
    base_s = ours_s[0] if count == 1 else math.exp(math.fsum(logs) / count)
    log = math.log(new_s / base_s)
    *ours, theirs = (stats.relative_variance(*_taken(one, measure)) for one in (*timed, new))
    known = [one for one in ours if one]
    if theirs is None or len(known) < count:
        return Shift(timed[0], new, base_s, new_s, log, None, count)
    samples = total_variance([*(one.scaled(1 / count) for one in known), theirs])
    spread = _spread(logs, math.fsum(one.value for one in known) / count)
    return Shift(timed[0], new, base_s, new_s, log, samples, count, spread)


def _is_timed(record: Record, measure: str) -> bool:
    return record.status is Status.OK and bool(record.samples.get(measure))


def _taken(record: Record, measure: str) -> tuple[Sequence[float], Sequence[int] | None]:
    return record.samples[measure], _groups(record, record.blocks[measure])


def _spread(logs: Sequence[float], samples: float) -> Variance | None:
    """What is added to the variance of ln(new / base) since a cell's times in base runs are farther apart than is
    assumed; `samples` is the variance that one of them has from its samples. None for one run, or if they are not."""
    middle = math.fsum(logs) / len(logs)
    assumed = (CELL_SD**2 + SHAPE_SD**2 + RUN_SD**2) / 2 + samples
    apart = math.fsum((log - middle) ** 2 for log in logs)
    moderated = (DEGREES * assumed + apart) / (DEGREES + len(logs) - 1)
    return Variance((moderated - assumed) * (1 + 1 / len(logs)), DEGREES) if moderated > assumed else None


def effects(pairs: Sequence[ShapePair], shifts: Sequence[Sequence[Shift]], measure: str, *, anchored: bool) -> Effects:
    """What to expect of unchanged code, from the duplicates of both runs and, if `anchored`, from the anchors.

    For most cells the machine moved as far as all anchors of their shape agree. For an anchor it moved as far as that
    anchor agrees with another, or with the middle of all other cells: an anchor that moves alone was changed.
    """
    wander = _wander(pairs, measure)
    # Of two runs' variance, what one run and the mean of several have; a shape counts as many as each cell has.
    shares = [(1 + 1 / min((one.runs for one in within), default=1)) / 2 for within in shifts]
    cells = tuple(
        Variance(max(CELL_SD**2, wander) * share, DEGREES)
        if pair.alike
        else Variance(max(ELSEWHERE_CELL_SD**2, wander) * share, ELSEWHERE_DEGREES)
        for pair, share in zip(pairs, shares, strict=True)
    )
    anchors = [_anchors(*shape, measure) if anchored else {} for shape in zip(pairs, shifts, strict=True)]
    beside = {
        kernel: [_beside(kernel, *shape) for shape in zip(anchors, shifts, strict=True)]
        for kernel in dict.fromkeys(kernel for of_shape in anchors for kernel in of_shape)
    }
    alike = [pair.alike for pair in pairs]
    return Effects(
        cells=cells,
        common=_common([_agreed(list(of_shape.values())) for of_shape in anchors], cells, alike, shares),
        anchors={kernel: _common(moves, cells, alike, shares) for kernel, moves in beside.items()},
    )


def _groups(record: Record, blocks: Sequence[int]) -> Sequence[int] | None:
    """The process that took each of `blocks`; None if one took all."""
    processes = record.processes
    return [processes[block] if block < len(processes) else 0 for block in blocks] if processes else None


def _wander(pairs: Sequence[ShapePair], measure: str) -> float:
    """How far baseline and duplicate are apart in one run, squared: each is a cell of its own, of the same code."""
    seen = []
    more = itertools.zip_longest(*(pair.more for pair in pairs))  # by run, and of each run by shape
    for run in ([pair.base for pair in pairs], *more, [pair.new for pair in pairs]):
        apart = [found for comparison in run if comparison and (found := _apart(comparison, measure))]
        # Around their mean: what they all have in common is no effect of a cell.
        middle = sum(log for log, _ in apart) / len(apart) if len(apart) > 1 else 0.0
        seen += [(log - middle) ** 2 * len(apart) / max(1, len(apart) - 1) - variance.value for log, variance in apart]
    return sum(seen) / len(seen) if seen else 0.0


def _apart(comparison: MeasuredComparison, measure: str) -> tuple[float, Variance] | None:
    """ln(duplicate / original) from samples of the same blocks, and the variance that it has from them."""
    twice = duplicate(comparison.end, comparison.records, measure)
    if twice is None:
        return None
    original, again = twice
    by_block = dict(zip(original.blocks[measure], original.samples[measure], strict=True))
    taken = zip(again.samples[measure], again.blocks[measure], strict=True)
    ratios = {block: sample / by_block[block] for sample, block in taken if block in by_block}
    if not ratios:
        return None
    pairs = list(ratios.values()), _groups(original, tuple(ratios))
    variance = stats.relative_variance(*pairs)
    return (math.log(stats.estimate(*pairs)), variance) if variance else None


def _anchors(pair: ShapePair, shifts: Sequence[Shift], measure: str) -> dict[str, Moved]:
    """The moves of the 16-bit baselines of a shape, by kernel; that of one with a duplicate is the mean of both."""
    found: dict[str, list[Shift]] = {}
    for one in shifts:
        if is_anchor(one.new.kernel):
            found.setdefault(one.new.kernel, []).append(one)
    base, *more, new = (duplicate(one.end, one.records, measure) for one in (pair.base, *pair.more, pair.new))
    if base and new and base[1].kernel == new[1].kernel in found:
        others = [twice[1] for twice in more if twice and twice[1].kernel == new[1].kernel]
        if again := shift(base[1], new[1], measure, others):
            found[again.new.kernel].append(again)
    return {kernel: moved for kernel, ones in found.items() if (moved := _mean(ones))}


def _beside(kernel: str, anchors: Mapping[str, Moved], shifts: Sequence[Shift]) -> Moved | None:
    """As far as one anchor moved together with another, or with the middle of all other cells of its shape."""
    if kernel not in anchors:
        return None
    others = [moved for other, moved in anchors.items() if other != kernel]
    cells = [one for one in shifts if one.new.kernel != kernel]
    if mean := _mean(cells):
        others.append(replace(mean, log=stats.median([one.log for one in cells if one.samples])))
    agreed = (_agreed([anchors[kernel], other]) for other in others)
    return max(filter(None, agreed), key=lambda moved: abs(moved.log), default=None)


def _mean(shifts: Sequence[Shift]) -> Moved | None:
    known = [(one.log, one.samples.value) for one in shifts if one.samples]
    n = len(known)
    return Moved(sum(log for log, _ in known) / n, sum(value for _, value in known) / n**2, n) if known else None


def _agreed(moves: Sequence[Moved]) -> Moved | None:
    """The smallest of several moves in one direction; a move of 0 if they go in both. None if there are none."""
    if not moves:
        return None
    least = min(moves, key=lambda moved: abs(moved.log))
    return least if all(moved.log * least.log > 0 for moved in moves) else replace(least, log=0.0)


def _common(
    moves: Sequence[Moved | None], cells: Sequence[Variance], alike: Sequence[bool], shares: Sequence[float]
) -> Common:
    """What the moves of the shapes say: each of its own shape, and their mean of the run."""
    noises = [m.samples + cell.value / m.cells if m else 0.0 for m, cell in zip(moves, cells, strict=True)]
    logs = [moved.log if moved else 0.0 for moved in moves]
    known = sum(moved is not None for moved in moves)
    run = (sum(logs) ** 2 - sum(noises)) / known**2 if known else 0.0
    # If other cells were timed before, only anchors can tell that a shape did not move.
    sds = [SHAPE_SD if same or moved else ELSEWHERE_SHAPE_SD for same, moved in zip(alike, moves, strict=True)]
    least_of_run = RUN_SD**2 * max(shares)
    leasts = [sd**2 * share + least_of_run for sd, share in zip(sds, shares, strict=True)]
    return Common(
        shapes=tuple(
            Variance(max(least, log**2 - noise), DEGREES if same else ELSEWHERE_DEGREES)
            for least, log, noise, same in zip(leasts, logs, noises, alike, strict=True)
        ),
        run=Variance(max(least_of_run, run), DEGREES),
        moved=tuple(moves),
    )
