"""A cell on its way through a comparison, and the wall time that the comparison has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from w8a8_bench.correctness.check import Verdict
from w8a8_bench.environment.telemetry import Snapshot
from w8a8_bench.kernel import Kernel, Prepared, Status
from w8a8_bench.problem.comparison import Cell
from w8a8_bench.text import one_line
from w8a8_bench.timing.method import Sample, TimedCell


@dataclass
class CellRun:
    """A cell on its way through the comparison. A status other than OK is final, and nothing is run after it."""

    cell: Cell
    index: int
    kernel: Kernel | None = None
    prepared: Prepared | None = None
    timed: TimedCell | None = None
    status: Status = Status.OK
    reason: str = ""
    verdict: Verdict | None = None
    config: dict[str, object] = field(default_factory=dict)
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)
    looks: list[Snapshot | None] = field(default_factory=list)

    def stop(self, status: Status, reason: str) -> None:
        self.status, self.reason = status, one_line(reason)

    @property
    def alive(self) -> bool:
        return self.status is Status.OK


@dataclass(frozen=True)
class Budget:
    """Wall time of a comparison. Its first half is for the checks, so that what was checked has time to be timed.

    Unless it `may_skip`, it is of the timing alone: the checks take what they take, and no cell is left out for it.
    """

    started: float
    seconds: float | None
    may_skip: bool

    def end(self, now: float) -> float | None:
        """When the timing that begins `now` is to end."""
        return None if self.seconds is None else (self.started if self.may_skip else now) + self.seconds

    def leaves_out(self, share: float = 1.0) -> bool:
        """Whether what is still to be done is left out, since this share of the time is over."""
        if self.seconds is None or not self.may_skip:
            return False
        return time.perf_counter() > self.started + share * self.seconds

    def skip_if_spent(self, run: CellRun, share: float, what: str) -> None:
        if self.leaves_out(share):
            part = "the budget" if share == 1 else "half the budget"
            run.stop(Status.SKIPPED, f"{part} of {self.seconds:g} s was spent before this cell was {what}")
