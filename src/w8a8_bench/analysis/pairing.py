"""The cells of two results files, put together: which are in both, which in one, and what they were timed beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Problem
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import MeasuredComparison, labels_key
from w8a8_bench.results.record import Record

NumberedCell = tuple[int, int, int]
"""The numbers of a cell's kernel and problem and of its labels, and which of several cells with both it is."""


@dataclass(frozen=True)
class ShapePair:
    """A shape of both files, and its cells that are in both. `alike`: the same cells were timed in both comparisons,
    and before them on that card in that run, in the same order.

    `more` are the comparisons of further base files, and `again` their cells, parallel to `cells`.
    """

    base: MeasuredComparison
    new: MeasuredComparison
    cells: tuple[tuple[Record, Record], ...]
    alike: bool
    more: tuple[MeasuredComparison, ...] = ()
    again: tuple[tuple[Record, ...], ...] = ()

    @property
    def where(self) -> LabelledShape:
        first, _ = self.cells[0]
        return LabelledShape(first.problem.shape, first.labels)

    @property
    def same_card(self) -> bool:
        return self.base.card == self.new.card


@dataclass(frozen=True)
class Pairing:
    """Every cell of two files. `shapes` are in the order of the first. `labels` are names that one file alone has, and
    `relabelled` counts the cells that are paired although their labels have other values."""

    shapes: tuple[ShapePair, ...]
    only_base: tuple[Record, ...]
    only_new: tuple[Record, ...]
    labels: tuple[str, ...] = ()
    relabelled: int = 0


def pair(base: Results, new: Results) -> Pairing:
    """Cells are the same by kernel, problem, and the labels whose names both files have; if a file has one more than
    once, by their order. Of what is left, cells of one kernel and problem are the same if each file has one of them:
    labels only tell apart what is otherwise equal.
    """
    ours_named, theirs_named = _label_names(base), _label_names(new)
    shared = frozenset(ours_named & theirs_named)
    numbers: Numbers = {}
    ours, theirs = list(_numbered(base, numbers, shared)), list(_numbered(new, numbers, shared))
    index_of = {cell: index for index, (cells, _) in enumerate(theirs) for cell in cells}
    pairs: dict[tuple[int, int], list[tuple[Record, Record]]] = {}
    left_ours: list[tuple[int, Record]] = []
    for index, (cells, _) in enumerate(ours):
        for cell, record in cells.items():
            other = index_of.pop(cell, None)
            if other is None:
                left_ours.append((index, record))
            else:
                pairs.setdefault((index, other), []).append((record, theirs[other][0][cell]))
    left_theirs = [(index, theirs[index][0][cell]) for cell, index in index_of.items()]
    singles = _singles(left_theirs)
    paired: set[int] = set()
    for place, (index, record) in _singles(left_ours).items():
        if place in singles:
            other, partner = singles[place]
            pairs.setdefault((index, other), []).append((record, partner))
            paired |= {id(record), id(partner)}
    return Pairing(
        shapes=tuple(
            ShapePair(base.comparisons[a], new.comparisons[b], tuple(cells), alike=ours[a][1] == theirs[b][1])
            for (a, b), cells in sorted(pairs.items())
        ),
        only_base=tuple(record for _, record in left_ours if id(record) not in paired),
        only_new=tuple(record for _, record in left_theirs if id(record) not in paired),
        relabelled=len(paired) // 2,
        labels=tuple(sorted(ours_named ^ theirs_named)),
    )


def pair_several(bases: Sequence[Results], new: Results) -> Pairing:
    """A run, and several others of one plan on the same cards, which are one base; a cell works if it does in any.

    Raises ValueError, which names the file, if a base has other cells or was on another card than the first.
    """
    first, *others = bases
    paired = pair(first, new)
    more: dict[int, list[MeasuredComparison]] = {}
    again: dict[int, list[Record]] = {}
    alike = {id(shape.base): shape.alike for shape in paired.shapes}
    for other in others:
        both = pair(first, other)
        if both.only_base or both.only_new or both.relabelled:
            raise ValueError(f"{other.path} and {first.path} are bases with other cells: expected runs of one plan")
        for shape in both.shapes:
            if not shape.same_card:
                raise ValueError(f"{other.path} was measured on another device than {first.path}")
            more.setdefault(id(shape.base), []).append(shape.new)
            alike[id(shape.base)] = shape.alike and alike.get(id(shape.base), True)
            for record, of_other in shape.cells:
                again.setdefault(id(record), []).append(of_other)
    if not others:
        return paired
    shapes = []
    for shape in paired.shapes:
        # One that worked first: then it is a change if the new run's does not.
        of_bases = [sorted([base, *again[id(base)]], key=_is_not_ok) for base, _ in shape.cells]
        cells = tuple((best, new_one) for (best, *_), (_, new_one) in zip(of_bases, shape.cells, strict=True))
        rest = tuple(tuple(ones[1:]) for ones in of_bases)
        one = id(shape.base)
        shapes.append(replace(shape, cells=cells, alike=alike[one], more=tuple(more[one]), again=rest))
    return replace(paired, shapes=tuple(shapes))


def _is_not_ok(record: Record) -> bool:
    return record.status is not Status.OK


def _label_names(results: Results) -> set[str]:
    return {name for comparison in results.comparisons for name in comparison.end.labels}


def _singles(cells: Iterable[tuple[int, Record]]) -> dict[tuple[str, Problem], tuple[int, Record]]:
    """Cells, each with the number of its comparison, whose kernel and problem only one of them has."""
    found: dict[tuple[str, Problem], list[tuple[int, Record]]] = {}
    for index, record in cells:
        found.setdefault((record.kernel, record.problem), []).append((index, record))
    return {place: ones[0] for place, ones in found.items() if len(ones) == 1}


Numbers = dict[tuple[object, ...], int]
"""A number for each key of both files, so that each of the long keys is hashed once."""


def _numbered(
    results: Results, numbers: Numbers, names: frozenset[str]
) -> Iterator[tuple[dict[NumberedCell, Record], int]]:
    """The cells of every comparison, and a hash of what was timed up to its end on its card in its run.

    Of their labels, those of `names` count.
    """
    seen: dict[tuple[int, int], int] = {}
    histories: dict[tuple[int, str], int] = {}
    for comparison in results.comparisons:
        cells: dict[NumberedCell, Record] = {}
        timed = []
        for record in comparison.records:
            work = numbers.setdefault((record.kernel, record.problem), len(numbers))
            labels = numbers.setdefault(labels_key(record.labels, names), len(numbers))
            seen[work, labels] = seen.get((work, labels), 0) + 1
            cells[work, labels, seen[work, labels]] = record
            if record.samples:
                timed.append(work)
        where = id(comparison.run), comparison.card
        histories[where] = hash((histories.get(where, 0), *timed))
        yield cells, histories[where]
