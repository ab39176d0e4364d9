"""Two runs of the same cells, cell by cell: which changed, which did not, and which can't be told.

`run_variance` says how far unchanged code may be apart. Each verdict stands among as many as there are cells, so that
p-values are held against a false discovery rate, not each against a level of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain

from w8a8_bench.analysis.pairing import Pairing, ShapePair
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.report.compare.run_variance import Effects, Shift, effects, shift
from w8a8_bench.results.record import Record
from w8a8_bench.stats import Interval, Variance, discoveries, t_reach, t_tail
from w8a8_bench.text import few, one_line
from w8a8_bench.timing.measures import headline

ERROR_RATE = 0.01
"""Of the cells that are called faster or slower, the share that is expected to be wrong, at most; so of those called
same (`stats.discoveries`)."""

DEFAULT_THRESHOLD = 0.01
"""Less than this is no change: in two sweeps of the same code on an H200 all 280 cells agree within it."""

MACHINE = 0.2
"""Two sweeps of an H200 differ by a hundredth of this."""

LARGEST_REACH = math.log(1000)
"""An interval that reaches farther on either side says nothing."""


class Judgement(str, Enum):
    """Of a cell's time: changed; not changed by as much as the threshold, by two one-sided tests; or neither shown."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class JudgedCell:
    """A cell that both runs timed. `interval` is the 95% interval of this ratio alone; None for too few samples, or
    samples too far apart."""

    shift: Shift
    interval: Interval | None
    verdict: Judgement

    @property
    def ratio(self) -> float:
        """New time over base: above 1 is slower."""
        return self.shift.new_s / self.shift.base_s

    @property
    def cell(self) -> str:
        return self.shift.new.text


@dataclass(frozen=True)
class Change:
    """A cell whose status became another one."""

    base: Record
    new: Record

    @property
    def worse(self) -> bool:
        """It worked, or was not broken, before. What was skipped was not tried."""
        lost = self.base.status is Status.OK and self.new.status is not Status.SKIPPED
        return lost or (self.new.status in FAULTS and self.base.status not in FAULTS)


@dataclass(frozen=True)
class Mean:
    """Geometric mean of new over base of cells with enough samples for an interval, and its own 95% interval.

    `verdict` is that of a kernel among all kernels, which several cells can show where none of them alone does.
    """

    cells: int
    ratio: float
    interval: Interval | None
    verdict: Judgement = Judgement.INCONCLUSIVE


@dataclass(frozen=True)
class Shape:
    """A shape of both runs. `moved` is new over base of its anchors; None if there are none."""

    pair: ShapePair
    timed: tuple[JudgedCell, ...]
    moved: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What two runs say of each other.

    measure  what was compared; None if neither run timed anything
    labels   names of labels that one file alone has, which part no cells
    relabelled  cells that were paired although their labels have other values
    untimed  cells that were not timed by it in both, with the same status in both
    by_cell  means by kernel and scheme
    """

    measure: str | None
    threshold: float
    shapes: tuple[Shape, ...]
    changes: tuple[Change, ...]
    untimed: int
    only_base: tuple[Record, ...]
    only_new: tuple[Record, ...]
    mean: Mean | None
    by_cell: Mapping[str, Mean]
    labels: tuple[str, ...]
    relabelled: int

    @property
    def timed(self) -> tuple[JudgedCell, ...]:
        return tuple(timed for shape in self.shapes for timed in shape.timed)

    def beyond(self) -> tuple[JudgedCell, ...]:
        """Cells that are slower, by more than the threshold."""
        return tuple(t for t in self.timed if t.verdict is Judgement.SLOWER and t.ratio > 1 + self.threshold)

    def slower_kernels(self) -> dict[str, Mean]:
        """Kernels that are slower over all their cells, by more than the threshold."""
        return {
            cell: mean
            for cell, mean in self.by_cell.items()
            if mean.verdict is Judgement.SLOWER and mean.ratio > 1 + self.threshold
        }

    @property
    def machine(self) -> float | None:
        """New over base of the 16-bit baselines, if those of all shapes moved the same way and by over `MACHINE`: then
        the machine changed, and no time of one run can be held against one of the other."""
        moved = [shape.moved for shape in self.shapes]
        known = [one for one in moved if one is not None]
        if not known or len(known) < len(moved):
            return None
        same_way = min(known) > 1 + MACHINE or max(known) < 1 / (1 + MACHINE)
        return math.exp(math.fsum(map(math.log, known)) / len(known)) if same_way else None

    def worse(self) -> tuple[Change, ...]:
        """Cells whose status is worse."""
        return tuple(change for change in self.changes if change.worse)


def compare(pairing: Pairing, *, anchored: bool, threshold: float = DEFAULT_THRESHOLD) -> Outcome:
    """Judge the cells that two runs have in common, by the headline of the measures that both have.

    `anchored` says that the code of the 16-bit baselines is the same in both. Raises ValueError if no cell is in
    both, or none was timed by the same measure. Shapes that were on another card are not judged, unless all were.
    """
    cells = [cell for pair in pairing.shapes for cell in pair.cells]
    if not cells:
        raise ValueError(f"no cell is in both files: {_why_apart(pairing)}")
    measure = headline(name for base, new in cells for name in _measures(base) & _measures(new))
    if measure is None and all(any(map(_measures, side)) for side in zip(*cells, strict=True)):
        raise ValueError("no cell was timed by the same measure in both files")
    shifts = [_shifts(pair, measure) if measure else [] for pair in pairing.shapes]
    spread = effects(pairing.shapes, shifts, measure or "", anchored=anchored)
    comparable = [shape.same_card for shape in pairing.shapes]
    if not any(comparable):
        comparable = [True] * len(comparable)
    variances = [
        [spread.of(one, place) if comparable[place] else None for one in within] for place, within in enumerate(shifts)
    ]
    verdicts = iter(judge([one.log for one in chain(*shifts)], [*chain(*variances)], threshold))
    shapes = [
        Shape(
            pair,
            tuple(
                JudgedCell(one, _interval(one.log, variance) if variance else None, next(verdicts))
                for one, variance in zip(within, of_shape, strict=True)
            ),
            math.exp(moved.log) if moved else None,
        )
        for pair, within, of_shape, moved in zip(pairing.shapes, shifts, variances, spread.common.moved, strict=True)
    ]
    timed = {id(one.new) for one in chain(*shifts)}
    untimed = [cell for cell in cells if id(cell[1]) not in timed]
    changes = [Change(base, new) for base, new in untimed if base.status is not new.status]
    placed = [(place, one) for place, within in enumerate(shifts) if comparable[place] for one in within if one.samples]
    by_cell: dict[str, list[tuple[int, Shift]]] = {}
    for place, one in placed:
        by_cell.setdefault(one.new.text, []).append((place, one))
    return Outcome(
        measure=measure,
        threshold=threshold,
        shapes=tuple(shapes),
        changes=tuple(changes),
        untimed=len(untimed) - len(changes),
        only_base=pairing.only_base,
        only_new=pairing.only_new,
        mean=_mean(placed, spread) if placed else None,
        by_cell=_means(by_cell, spread, threshold),
        labels=pairing.labels,
        relabelled=pairing.relabelled,
    )


def _shifts(pair: ShapePair, measure: str) -> list[Shift]:
    again = pair.again or ((),) * len(pair.cells)
    return [one for cell, more in zip(pair.cells, again, strict=True) if (one := shift(*cell, measure, more))]


def _why_apart(pairing: Pairing) -> str:
    """What no cell of one file has in common with any of the other."""
    ours, theirs = ([_facts(record) for record in side] for side in (pairing.only_base, pairing.only_new))
    if not ours or not theirs:
        return "one has none"
    for name in dict.fromkeys(name for facts in (*ours, *theirs) for name in facts):
        a, b = ({facts.get(name, "none"): None for facts in side} for side in (ours, theirs))
        if not a.keys() & b.keys():
            return f"{name} is {few(map(one_line, a))} in one and {few(map(one_line, b))} in the other"
    return "kernels, shapes, labels, schemes or activations differ"


def _facts(record: Record) -> dict[str, str]:
    problem = record.problem
    labels = {name: str(value) for name, value in record.labels.items()}
    return {**labels, "kernel": record.text, "shape": str(problem.shape), "activations": problem.activations.value}


def _measures(record: Record) -> set[str]:
    return {name for name, taken in record.samples.items() if taken} if record.status is Status.OK else set()


def judge(logs: Sequence[float], variances: Sequence[Variance | None], threshold: float) -> list[Judgement]:
    """A verdict on each ln(new / base), among all. Changes shown to be below the threshold count as `same`."""
    judged = [(log, variance) for log, variance in zip(logs, variances, strict=True) if variance]
    moved = discoveries([2 * _tail(abs(log), variance) for log, variance in judged], ERROR_RATE)
    within = math.log1p(threshold)
    same = discoveries([_tail(within - abs(log), variance) for log, variance in judged], ERROR_RATE)
    found = iter(zip(judged, moved, same, strict=True))
    return [_verdict(*next(found)) if variance else Judgement.INCONCLUSIVE for variance in variances]


def _verdict(judged: tuple[float, Variance], moved: bool, same: bool) -> Judgement:
    if same:
        return Judgement.SAME
    if not moved:
        return Judgement.INCONCLUSIVE
    return Judgement.SLOWER if judged[0] > 0 else Judgement.FASTER


def _tail(log: float, variance: Variance) -> float:
    return t_tail(log / math.sqrt(variance.value), variance.degrees)


def _mean(placed: Sequence[tuple[int, Shift]], spread: Effects) -> Mean:
    log = math.fsum(one.log for _, one in placed) / len(placed)
    return Mean(len(placed), math.exp(log), _interval(log, spread.of_mean(placed)))


def _means(by_cell: Mapping[str, Sequence[tuple[int, Shift]]], spread: Effects, threshold: float) -> dict[str, Mean]:
    """The mean of each kernel, with a verdict among all kernels."""
    means = {cell: _mean(placed, spread) for cell, placed in by_cell.items()}
    variances = [spread.of_mean(placed) for placed in by_cell.values()]
    verdicts = judge([math.log(mean.ratio) for mean in means.values()], variances, threshold)
    return {cell: replace(mean, verdict=one) for (cell, mean), one in zip(means.items(), verdicts, strict=True)}


def _interval(log: float, variance: Variance) -> Interval | None:
    reach = t_reach(variance)
    return (math.exp(log - reach), math.exp(log + reach)) if reach <= LARGEST_REACH else None
