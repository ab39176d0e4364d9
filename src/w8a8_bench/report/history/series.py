"""Each cell over time: its levels, where they changed, and what else changed there.

A series is a cell on one GPU model, of all runs that timed it under the same conditions. Where the machine drifts, all
times do: a run's part of it is what the 16-bit baselines of that run are above their usual times in the same
environment, as the median over all of them, and it is taken out of the other cells' times. If torch, CUDA or the driver
changed, the baselines' usual times begin anew, since their own code may have.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from functools import cached_property

import msgspec

from w8a8_bench import stats
from w8a8_bench.analysis.change_points import LEAST_SD, Fit, Level, difference, fit, usual_sd
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.problem import Problem
from w8a8_bench.problem.kernel_name import cell_text, is_anchor
from w8a8_bench.results.history_index import RunFacts, Times

LASTING = 3
"""Runs of a level that counts as reached."""

SOFTWARE = ("torch", "torch_cuda", "driver", "driver_cuda")
"""What the baselines' own code depends on."""

CODE = ("w8a8_bench", "git_revision", "source", "provider_sources")
"""Facts of a run that name the code which is measured."""

HOST = ("platform", "cpu", "cpu_threads")

NO_LONGER = frozenset(status.value for status in (*FAULTS, Status.UNSUPPORTED))
"""Statuses of a cell that was timed before and is no longer."""


class Verdict(str, Enum):
    """What a series comes to: `few` has too few runs to say, `broken` was timed once and is no longer."""

    WORSE = "worse"
    BROKEN = "broken"
    STEADY = "steady"
    FEW = "few"


@dataclass(frozen=True)
class Machine:
    """How far the baselines of a run lie above their usual times (ln), and the variance of that."""

    log: float
    variance: float


@dataclass(frozen=True)
class Point:
    """A time of a series: ln of seconds, without the machine's part if the series is no baseline's."""

    run: RunFacts
    seconds: float
    log: float
    variance: float


@dataclass(frozen=True)
class Change:
    """From one level to the next: the last run before and the first run after it, and ln of the ratio, with its 95%
    interval. `moved` says what else changed between the two runs."""

    before: RunFacts
    after: RunFacts
    log: float
    low: float
    high: float
    moved: tuple[str, ...]

    @property
    def percent(self) -> str:
        return f"{percent(self.log)} ({percent(self.low)} to {percent(self.high)})"


@dataclass(frozen=True)
class Series:
    """A cell over time, oldest first. `last` is the newest run that has the cell, `status` and `reason` are its.
    `usual_sd` is how far runs of the same device are apart, over all series."""

    device: str
    measure: str
    kernel: str
    problem: Problem
    points: tuple[Point, ...]
    last: RunFacts
    status: str
    reason: str
    machines: Mapping[int, Machine]
    usual_sd: float = LEAST_SD

    @property
    def text(self) -> str:
        return cell_text(self.kernel, self.problem)

    @property
    def is_baseline(self) -> bool:
        return is_anchor(self.kernel)

    @cached_property
    def fit(self) -> Fit:
        return fit(*_values(self.points), self.usual_sd)

    @property
    def newest(self) -> Level:
        return self.fit.levels[-1]

    @cached_property
    def best(self) -> Level:
        """The fastest level that lasted; the newest if none did."""
        lasting = [level for level in self.fit.levels if level.runs >= LASTING]
        return min(lasting, key=lambda level: level.value, default=self.newest)

    @cached_property
    def worse_by(self) -> tuple[float, float, float]:
        """ln of the newest level over the best lasting one, and its 95% interval."""
        return (0.0, 0.0, 0.0) if self.best is self.newest else difference(self.best, self.newest)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        found = []
        for before, after in zip(self.fit.levels, self.fit.levels[1:], strict=False):
            last, first = self.points[before.last].run, self.points[after.first].run
            moved = what_moved(last, first, self.machines)
            found.append(Change(last, first, *difference(before, after), moved))
        return tuple(found)

    def verdict(self, threshold: float) -> Verdict:
        if self.status in NO_LONGER:
            return Verdict.BROKEN
        if len(self.points) <= LASTING:
            return Verdict.FEW
        log, low, _ = self.worse_by
        return Verdict.WORSE if math.expm1(log) > threshold and low > 0 else Verdict.STEADY


@dataclass(frozen=True)
class History:
    """All runs, oldest first, and all series that were timed at least once, in the order in which they came."""

    runs: tuple[RunFacts, ...]
    series: tuple[Series, ...]
    machines: Mapping[int, Machine]

    @cached_property
    def machine_changes(self) -> tuple[tuple[str, Change], ...]:
        """Where all baselines of a device changed together, oldest first, each with the device."""
        found = []
        for device in dict.fromkeys(run.device for run in self.runs):
            runs = [run for run in self.runs if run.device == device and id(run) in self.machines]
            if runs:
                known = [self.machines[id(run)] for run in runs]
                levels = fit([one.log for one in known], [one.variance for one in known]).levels
                for before, after in itertools.pairwise(levels):
                    last, first = runs[before.last], runs[after.first]
                    moved = what_moved(last, first, {})
                    found.append((device, Change(last, first, *difference(before, after), moved)))
        return tuple(found)

    @property
    def gone(self) -> int:
        """Series that the newest run of their device does not have."""
        newest = {run.device: run for run in self.runs}
        return sum(one.last is not newest[one.device] for one in self.series)

    def worse(self, threshold: float) -> list[Series]:
        """Of this code: series that fail a gate, the worst first. Baselines tell of the machine and fail none."""
        found = [one for one in self.series if not one.is_baseline and one.verdict(threshold) is Verdict.WORSE]
        return sorted(found, key=lambda one: -one.worse_by[0])

    def broken(self, threshold: float) -> list[Series]:
        return [one for one in self.series if one.verdict(threshold) is Verdict.BROKEN]

    def by_run(self) -> list[tuple[RunFacts, list[tuple[Series, Change]]]]:
        """Changes by the run that they begin with, the newest first. What baselines did is told as the machine's."""
        found: dict[int, list[tuple[Series, Change]]] = {}
        for one in self.series:
            for change in () if one.is_baseline else one.changes:
                found.setdefault(id(change.after), []).append((one, change))
        return [(run, found[id(run)]) for run in reversed(self.runs) if id(run) in found]


def percent(log: float) -> str:
    return f"{100 * math.expm1(log):+.2f}%"


def make_history(every: Iterable[Times]) -> History:
    """The series of all times that there are."""
    times = _once(every)
    runs = sorted({id(one.run): one.run for one in times}.values(), key=lambda run: (_when(run), run.file, run.place))
    order = {id(run): number for number, run in enumerate(runs)}
    by_cell: dict[str, list[Times]] = {}
    for one in times:
        by_cell.setdefault(one.cell, []).append(one)
    cells = {cell: sorted(of_cell, key=lambda one: order[id(one.run)]) for cell, of_cell in by_cell.items()}
    machines = _machines(cells)
    made = [found for cell, of_cell in cells.items() if (found := _series(cell, of_cell, machines))]
    usual = {
        device: usual_sd(_values(one.points) for one in made if one.device == device)
        for device in dict.fromkeys(one.device for one in made)
    }
    series = tuple(replace(one, usual_sd=usual[one.device]) for one in made)
    return History(tuple(runs), series, machines)


def _once(every: Iterable[Times]) -> list[Times]:
    """Without copies: a file that lies there twice is no second run."""
    found: dict[tuple[object, ...], Times] = {}
    for one in every:
        found.setdefault((one.run.time, one.run.device, one.run.cards, one.cell, one.seconds, one.status), one)
    return list(found.values())


def _when(run: RunFacts) -> datetime:
    """When a run began. Raises ValueError for what is no time."""
    try:
        when = datetime.fromisoformat(run.time.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{run.file}: `time` in its header is {run.time!r}, which is no date and time") from None
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)


def _values(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.log for point in points], [point.variance for point in points]


def _series(cell: str, times: Sequence[Times], machines: Mapping[int, Machine]) -> Series | None:
    device, measure, _, kernel, problem = json.loads(cell)
    anchored = not is_anchor(kernel)
    points = []
    for one in times:
        if one.seconds is not None:
            machine = machines.get(id(one.run)) if anchored else None
            log, variance = (machine.log, machine.variance) if machine else (0.0, 0.0)
            points.append(Point(one.run, one.seconds, math.log(one.seconds) - log, one.variance + variance))
    if not points:
        return None
    newest = times[-1]
    asked = msgspec.convert(problem, Problem)
    return Series(device, measure, kernel, asked, tuple(points), newest.run, newest.status, newest.reason, machines)


def _machines(cells: Mapping[str, Sequence[Times]]) -> dict[int, Machine]:
    """By run, how far its baselines are above their usual times.

    The median over the baselines of a run, and less if they are few: of one baseline, what it says of the machine and
    what it says of itself can't be told apart. The share is what the spread of these medians between runs has beyond
    that of the baselines within one.
    """
    above: dict[int, list[float]] = {}
    noise: list[float] = []
    for cell, times in cells.items():
        if not is_anchor(json.loads(cell)[3]):
            continue
        by_software: dict[tuple[object, ...], list[Times]] = {}
        for one in times:
            if one.seconds is not None:
                by_software.setdefault(tuple(one.run.facts.get(name) for name in SOFTWARE), []).append(one)
        for alike in by_software.values():
            usual = stats.median([math.log(one.seconds) for one in alike if one.seconds])
            for one in alike:
                above.setdefault(id(one.run), []).append(math.log(one.seconds or 1.0) - usual)
    logs = {run: stats.median(of_run) for run, of_run in above.items()}
    for run, of_run in above.items():
        noise += [log - logs[run] for log in of_run] if len(of_run) > 2 else []
    if not logs or not noise:
        return {}
    within = (stats.median([abs(one) for one in noise]) / 0.6745) ** 2
    between = (stats.median([abs(log) for log in logs.values()]) / 0.6745) ** 2
    machines = {}
    for run, log in logs.items():
        of_median = 1.57 * within / len(above[run])  # of a median, in large samples of a normal distribution
        drift = max(between - of_median, 0.0, log**2 - 9 * of_median)
        share = drift / (drift + of_median) if drift else 0.0
        machines[run] = Machine(share * log, share * of_median)
    return machines


def what_moved(before: RunFacts, after: RunFacts, machines: Mapping[int, Machine]) -> tuple[str, ...]:
    """In a few words each: what is different between two runs beside the time."""
    found = []
    if code := [name for name in CODE if before.facts.get(name) != after.facts.get(name)]:
        named = next((name for name in ("git_revision", "source", "w8a8_bench") if name in code), code[0])
        found.append(f"code {_short(before.facts.get(named))} to {_short(after.facts.get(named))}")
    for name, value in after.facts.items():  # what only one of them says, an older version did not
        if name.split(".")[0] not in CODE + HOST and before.facts.get(name, value) != value:
            found.append(f"{name.removeprefix('providers.')} {before.facts[name]} to {value}")
    if before.cards != after.cards:
        found.append(f"GPU {_cards(before)} to {_cards(after)}")
    elif any(before.facts.get(name) != after.facts.get(name) for name in HOST):
        found.append("another host")
    one, other = (machines.get(id(run), Machine(0.0, 0.0)) for run in (before, after))
    apart = other.log - one.log
    if abs(apart) > max(3 * math.sqrt(one.variance + other.variance), 0.002):
        found.append(f"baselines {percent(apart)}")
    return tuple(found)


def _short(value: object) -> str:
    """A revision as people write it."""
    text = str(value)
    changed = "+changes" if text.endswith("+changes") else ""
    return text.removesuffix("+changes")[:9] + changed


def _cards(run: RunFacts) -> str:
    return ", ".join("-".join(card.split("-")[:2]) for card in run.cards) or "unknown"
