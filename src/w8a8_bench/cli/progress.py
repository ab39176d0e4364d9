"""Progress on standard error: a bar in a terminal, and a line a shape elsewhere or without rich."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from w8a8_bench.bench.estimate import Pace, duration
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.text import counted, one_line

if TYPE_CHECKING:
    import rich.progress

LEAST_TOLD_S = 10
"""Less time left than this is not worth a word on a line of its own."""

PHASES = {"check": "checking", "prepare": "preparing", "time": "timing"}
"""What the worker calls its phases, and what a reader does."""


class Progress:
    """How far the sweep is, what it does and how long it will still take. Use as a context manager."""

    def __init__(self, *, total: int, done: int, pace: Pace) -> None:
        self._total, self._before, self._done, self._pace = total, done, done, pace
        self._announced: set[int] = set()
        self._shares: dict[int, float] = {}
        self._bar = _make_bar() if sys.stderr.isatty() and importlib.util.find_spec("rich") else None
        self._task = self._bar.add_task("starting", total=total, completed=done, left="") if self._bar else None

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar:
            self._bar.stop()

    def compiling(self, done: int, total: int) -> None:
        """Tell how many of the kernels that the sweep needs are compiled."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=f"compiling kernels, {done} of {total}", left="")
        elif not done:
            print(f"compiling {counted(total, 'kernel')} before the first shape", file=sys.stderr, flush=True)

    def update(self, comparison: Comparison, phase: str, what: str, done: float) -> None:
        """Tell what the worker is doing; `done` is how much of this comparison, 0 to 1."""
        self._pace.at(comparison.index, done)
        if self._bar and self._task is not None:
            self._shares[comparison.index] = done
            self._bar.update(
                self._task,
                description=one_line(f"{comparison.where.title}  {PHASES.get(phase, phase)} {what}"),
                completed=self._done + sum(self._shares.values()),
                left=self._left(),
            )
        elif comparison.index not in self._announced:
            self._announced.add(comparison.index)
            left = f", {self._left()}" if self._pace.left_s() >= LEAST_TOLD_S else ""
            line = f"[{self._before + len(self._announced)}/{self._total}{left}] {comparison.where.title}"
            print(one_line(line), file=sys.stderr, flush=True)

    def finished(self, comparison: Comparison) -> None:
        """`comparison` is done."""
        self._done += 1
        self._shares.pop(comparison.index, None)
        self._pace.finished(comparison.index)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, left=self._left())

    def _left(self) -> str:
        return f"about {duration(self._pace.left_s())} left"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar off the screen while a table is printed."""
        if self._bar:
            self._bar.stop()
        yield
        if self._bar:
            self._bar.start()


def _make_bar() -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    return Bar(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
