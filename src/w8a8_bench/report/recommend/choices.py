"""The cells that a model's layers can be computed with: found by shape, judged, and compared with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from w8a8_bench import stats
from w8a8_bench.analysis import metrics
from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.report.table import EMULATED
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import Record, RunHeader
from w8a8_bench.shapes import models
from w8a8_bench.text import counted
from w8a8_bench.timing.measures import headline

OUT = Format.BF16
"""Output of the baseline, and of whatever can stand in its place without a cast."""

FAST_ACCUM = "_fast_accum"

ALIKE = ("data", "duty")
"""Settings that times depend on: records of different ones do not stand side by side."""


@dataclass(frozen=True)
class ModelLayer:
    """A layer as one rank has it. `count` as in `shapes.layers.Layer`: None is in no sum."""

    name: str
    k: int
    n: int
    count: int | None

    def __str__(self) -> str:
        return f"{self.name} (k={self.k} n={self.n})"


def device_of(header: RunHeader) -> object:
    """The name of a run's device, or its kind if it has none."""
    return header.device.get("name", header.device.get("kind"))


@dataclass(frozen=True)
class Requirements:
    """What is asked of the answer.

    activations   only times of this kind are compared
    min_sqnr_db   the SQNR that a scheme needs; None: `accuracy.limit_of` says which
    sqnr_data     the data whose SQNR that is; None: the smallest over all data that there is one for
    any_accuracy  no limit to the accuracy
    providers     whose kernels may be chosen; empty: all. The baseline may always stay
    """

    activations: Activations = Activations.PREQUANTIZED
    min_sqnr_db: float | None = None
    sqnr_data: str | None = None
    any_accuracy: bool = False
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CandidateKernel:
    """A cell with its time in seconds, and its speed-up over the baseline of its own comparison by samples of the same
    blocks. The baseline itself is one too.
    """

    record: Record
    comparison: MeasuredComparison
    measure: str
    time: stats.Estimate
    speedup: stats.Estimate

    @property
    def scheme(self) -> Scheme:
        return Scheme.of(self.record.problem)

    @property
    def rank(self) -> tuple[int, bool, float, str]:
        """Simplest scheme first, then precise before fast accumulation, then the fastest."""
        fast = self.record.kernel.endswith(FAST_ACCUM)
        return self.scheme.complexity, fast, -self.speedup.median, self.record.kernel


def ratio(a: CandidateKernel, b: CandidateKernel) -> stats.Estimate:
    """Time of a over time of b: by samples of the same blocks, or else both over the baseline beside them."""
    if a.comparison is b.comparison and (paired := metrics.speedup(b.record, a.record, a.measure)) and paired.interval:
        return paired
    return stats.quotient(b.speedup, a.speedup)


class Candidates:
    """The comparisons of `files` whose shape is that of one of `layers`.

    Raises ValueError with one line if the files are of different devices or settings, or the baselines of
    different measures. `notes` tell, after `choices` was asked, what was left out and why.
    """

    def __init__(
        self, model: str, layers: Iterable[ModelLayer], files: Sequence[Results], required: Requirements
    ) -> None:
        self.device, self.data = _one_kind(files)
        self._required = required
        self._by_shape: dict[tuple[int, int], dict[int, list[MeasuredComparison]]] = {}
        self._left_out: dict[str, Counter[str]] = {}
        self._repeated = 0
        self._names = {model, models.name_of(model)}
        shapes = {(layer.k, layer.n) for layer in layers}
        headlines: dict[str, str] = {}  # of the baselines, each with the first file that has it
        for file in files:
            for comparison in file.comparisons:
                shape = comparison.end.shape
                if comparison.records and (shape.k, shape.n) in shapes:
                    self._by_shape.setdefault((shape.k, shape.n), {}).setdefault(shape.m, []).append(comparison)
                    if baseline := _baseline(comparison):
                        headlines.setdefault(headline(baseline.samples) or "", str(file.path))
        if len(headlines) > 1:
            (one, there), (other, elsewhere), *_ = headlines.items()
            raise ValueError(
                f"{there} has {one} and {elsewhere} {other}: times that are compared must be of one measure"
            )
        self.measure = next(iter(headlines), "")

    @property
    def records(self) -> Iterator[Record]:
        by_m = (comparisons for of_shape in self._by_shape.values() for comparisons in of_shape.values())
        return (record for comparisons in by_m for one in comparisons for record in one.records)

    def batch_sizes(self, layer: ModelLayer) -> list[int]:
        return sorted(self._by_shape.get((layer.k, layer.n), {}))

    def choices(self, layer: ModelLayer, m: int) -> tuple[CandidateKernel, ...]:
        """The baseline, then every cell to choose from; nothing if no comparison has a time of the baseline."""
        found: dict[tuple[str, Problem], CandidateKernel] = {}
        for comparison in self._comparisons_of(layer, m):
            baseline = _baseline(comparison)
            reference = self._timed(baseline, baseline, comparison) if baseline else None
            if baseline is None or reference is None:
                self._leave_out("no time of the baseline beside it", comparison.records)
                continue
            found.setdefault((baseline.kernel, baseline.problem), reference)
            for record in comparison.records:
                cell = (record.kernel, record.problem)
                if record is baseline:
                    continue
                if cell in found:
                    self._repeated += 1
                elif choice := self._judged(record, baseline, comparison):
                    found[cell] = choice
        return tuple(found.values())

    def _comparisons_of(self, layer: ModelLayer, m: int) -> list[MeasuredComparison]:
        """Comparisons of its shape, its own first: if a cell was measured more than once, the first time counts.

        Other layers of this model that have the same shape stand in for it only if it has none of its own.
        """
        every = self._by_shape.get((layer.k, layer.n), {}).get(m, [])
        siblings = [one for one in every if one.end.labels.get("model") in self._names]
        own = [one for one in siblings if one.end.labels.get("layer") == layer.name]
        return [*(own or siblings), *(one for one in every if one.end.labels.get("model") not in self._names)]

    def dropped(self) -> dict[str, int]:
        """How many cells were left out for each reason."""
        return {reason: some.total() for reason, some in self._left_out.items()}

    def notes(self) -> list[str]:
        """What was left out of the choice and why, a line a reason."""
        number = Counter(_cell_text(record) for record in self.records)
        lines = []
        for reason, some in self._left_out.items():
            shown = [cell if one == number[cell] else f"{cell} ({one} of {number[cell]})" for cell, one in some.items()]
            lines.append(f"left out, {reason}: {', '.join(shown)}")
        if self._repeated:
            lines.append(f"measured more than once, and the first time taken: {counted(self._repeated, 'cell')}")
        return lines

    def _judged(self, record: Record, baseline: Record, comparison: MeasuredComparison) -> CandidateKernel | None:
        """The cell as a choice; None, with a note, if it is none."""
        if reason := self._why_not(record):
            self._leave_out(reason, [record])
            return None
        choice = self._timed(record, baseline, comparison)
        if choice is None:
            self._leave_out("too few samples for an interval", [record])
        return choice

    def _why_not(self, record: Record) -> str | None:
        """Why a cell can't stand in the baseline's place; None if it can."""
        problem = record.problem
        if problem.scaling is None:
            return "not W8A8"
        if problem.activations is not self._required.activations:
            return f"activations {problem.activations.value}"
        if problem.bias:
            return "with a bias"
        if problem.out is not OUT:
            return f"output {problem.out.value}"
        if record.status is not Status.OK:
            return str(record.status.value)
        if EMULATED in record.flags:
            return "emulated"
        return None if self.measure in record.samples else f"no {self.measure}"

    def _timed(self, record: Record, baseline: Record, comparison: MeasuredComparison) -> CandidateKernel | None:
        """The cell with its time and its speed-up; None if there are too few samples for intervals."""
        samples, groups = record.samples[self.measure], record.groups(self.measure)
        time = stats.Estimate(stats.estimate(samples, groups), stats.interval(samples, groups))
        speedup = metrics.speedup(record, baseline, self.measure)
        if speedup is None or speedup.interval is None or time.interval is None:
            return None
        return CandidateKernel(record, comparison, self.measure, time, speedup)

    def _leave_out(self, reason: str, records: Iterable[Record]) -> None:
        for record in records:
            self._left_out.setdefault(reason, Counter())[_cell_text(record)] += 1


def _baseline(comparison: MeasuredComparison) -> Record | None:
    named = (record for record in comparison.records if record.kernel == BASELINE)
    return next((record for record in named if record.status is Status.OK and headline(record.samples)), None)


def _cell_text(record: Record) -> str:
    scaling = record.problem.scaling
    return f"{record.kernel} {scaling.name}" if scaling else record.kernel


def _one_kind(files: Sequence[Results]) -> tuple[str, str]:
    """The device and the data of all records. Raises ValueError if they are not of one device and one setting."""
    seen: dict[str, tuple[object, str]] = {}
    for file in files:
        for header in file.headers:
            facts = {"device": device_of(header), **{name: header.settings.get(name) for name in ALIKE}}
            for name, value in facts.items():
                first, where = seen.setdefault(name, (value, str(file.path)))
                if first != value:
                    here, there = (f"no {name}" if one is None else f"{name} {one}" for one in (value, first))
                    raise ValueError(
                        f"{where} has {there} and {file.path} has {here}: "
                        "records that are compared must be of one device and one setting"
                    )
    return str(seen["device"][0]), str(seen["data"][0])
