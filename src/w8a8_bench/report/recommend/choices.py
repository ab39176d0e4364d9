"""The cells that a model's layers can be computed with: found by shape, judged, and compared with each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
    mix           how often a forward pass has m tokens, by m; None: every m that there is, each as important
    """

    activations: Activations = Activations.PREQUANTIZED
    min_sqnr_db: float | None = None
    sqnr_data: str | None = None
    any_accuracy: bool = False
    providers: tuple[str, ...] = ()
    mix: Mapping[int, float] | None = None


@dataclass(frozen=True)
class CandidateKernel:
    """A cell with its time in seconds, and its speed-up over the baseline of its own comparison by samples of the same
    blocks. The baseline itself is one too.

    `parts` are its measurements if it was measured more than once: then time and speed-up are geometric means, and
    record and comparison the first's. The time is that beside the first baseline of its layer and m: a measurement
    beside another is scaled by the ratio of the two.
    """

    record: Record
    comparison: MeasuredComparison
    measure: str
    time: stats.Estimate
    speedup: stats.Estimate
    parts: tuple[CandidateKernel, ...] = ()

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
    ones, others = a.parts or (a,), b.parts or (b,)
    if len(ones) == len(others) and all(x.comparison is y.comparison for x, y in zip(ones, others, strict=True)):
        paired = [metrics.speedup(y.record, x.record, a.measure) for x, y in zip(ones, others, strict=True)]
        known = [one for one in paired if one and one.interval]
        if len(known) == len(paired):
            return geometric_mean(known)
    return stats.quotient(b.speedup, a.speedup)


def geometric_mean(ratios: Sequence[stats.Estimate]) -> stats.Estimate:
    """Of independent ratios or times, with the interval that theirs make."""
    if len(ratios) == 1:
        return ratios[0]
    number = len(ratios)
    middle = math.exp(math.fsum(math.log(one.median) for one in ratios) / number)
    ends = [(one.median, *one.interval) for one in ratios if one.interval and one.interval[0] > 0]
    if len(ends) < number:
        return stats.Estimate(middle, None)
    below = math.hypot(*(math.log(median / low) for median, low, _ in ends)) / number
    above = math.hypot(*(math.log(high / median) for median, _, high in ends)) / number
    return stats.Estimate(middle, (middle * math.exp(-below), middle * math.exp(above)))


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
        self._repeated = self._borrowed = 0
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
        """The baseline, then every cell to choose from; nothing if no comparison has a time of the baseline.

        A comparison without a baseline of its own has that of another one of its shape on its GPU.
        """
        comparisons = self._comparisons_of(layer, m)
        references = {id(one): timed for one in comparisons if (timed := self._reference(one))}
        if not references:
            for comparison in comparisons:
                self._leave_out("no time of the baseline beside it", comparison.records)
            return ()
        first = next(iter(references.values()))
        found: dict[tuple[str, Problem], list[CandidateKernel]] = {}
        for comparison in comparisons:
            own = references.get(id(comparison))
            reference = own or next((r for r in references.values() if r.comparison.card == comparison.card), None)
            if reference is None:
                self._leave_out("no time of the baseline on its GPU", comparison.records)
                continue
            for record in comparison.records:
                if (own is None or record is not own.record) and (
                    choice := self._judged(record, reference, comparison, first.time.median)
                ):
                    found.setdefault((record.kernel, record.problem), []).append(choice)
                    self._borrowed += own is None
        self._repeated += sum(len(parts) > 1 for parts in found.values())
        return first, *(_pooled(parts) for parts in found.values())

    def _reference(self, comparison: MeasuredComparison) -> CandidateKernel | None:
        """The comparison's baseline with its time; None if it has none."""
        baseline = _baseline(comparison)
        time = self._time(baseline) if baseline and self.measure in baseline.samples else None
        if baseline is None or time is None:
            return None
        return CandidateKernel(baseline, comparison, self.measure, time, stats.Estimate(1.0, (1.0, 1.0)))

    def _comparisons_of(self, layer: ModelLayer, m: int) -> list[MeasuredComparison]:
        """Comparisons of its shape, its own first: times are those beside the first baseline.

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
            lines.append(
                f"measured more than once: {counted(self._repeated, 'cell')}; each is the geometric mean of its ratios "
                "to the bf16 beside it, and a time that beside the first bf16"
            )
        if self._borrowed:
            lines.append(
                f"without a bf16 beside it: {counted(self._borrowed, 'cell')}; compared with the bf16 of the same "
                "shape that was measured on the same GPU at another time"
            )
        return lines

    def _judged(
        self, record: Record, reference: CandidateKernel, comparison: MeasuredComparison, first_s: float
    ) -> CandidateKernel | None:
        """The cell as a choice; None, with a note, if it is none."""
        if reason := self._why_not(record):
            self._leave_out(reason, [record])
            return None
        choice = self._timed(record, reference, comparison, first_s)
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

    def _timed(
        self, record: Record, reference: CandidateKernel, comparison: MeasuredComparison, first_s: float
    ) -> CandidateKernel | None:
        """The cell with its speed-up over `reference`, and its time as beside a baseline of `first_s` seconds; None if
        there are too few samples for intervals.
        """
        time = self._time(record)
        if time is None or time.interval is None:
            return None
        if comparison is reference.comparison:
            speedup = metrics.speedup(record, reference.record, self.measure)
        else:
            speedup = stats.quotient(reference.time, time)
        if speedup is None or speedup.interval is None:
            return None
        scale, (low, high) = first_s / reference.time.median, time.interval
        time = stats.Estimate(time.median * scale, (low * scale, high * scale))
        return CandidateKernel(record, comparison, self.measure, time, speedup)

    def _time(self, record: Record) -> stats.Estimate | None:
        """None if there are too few samples for an interval."""
        samples, groups = record.samples[self.measure], record.groups(self.measure)
        interval = stats.interval(samples, groups)
        return stats.Estimate(stats.estimate(samples, groups), interval) if interval else None

    def _leave_out(self, reason: str, records: Iterable[Record]) -> None:
        for record in records:
            self._left_out.setdefault(reason, Counter())[_cell_text(record)] += 1


def _pooled(parts: Sequence[CandidateKernel]) -> CandidateKernel:
    """All measurements of a cell as one."""
    first, *others = parts
    if not others:
        return first
    time, speedup = geometric_mean([one.time for one in parts]), geometric_mean([one.speedup for one in parts])
    return replace(first, time=time, speedup=speedup, parts=tuple(parts))


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
