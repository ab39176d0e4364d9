"""What every method of timing offers: samplers of a cell, and the samples that they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from w8a8_bench.kernel import Launch, Launches
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing.measures import part

Bind = Callable[[Operands], Launches]
"""`Prepared.bind`: called once for each operand set."""


class Uncapturable(RuntimeError):
    """A launch can't be captured in a CUDA graph."""


@dataclass(frozen=True)
class Sample:
    """Seconds per launch; the SM clock meanwhile, if it was read.

    `idle_from` is when the device had done its work, by `perf_counter`, if more was read from it afterwards.
    """

    seconds: float
    clock_mhz: float | None = None
    idle_from: float | None = None


class Sampler(Protocol):
    """One measure of one cell, ready to be taken again and again."""

    @property
    def launches(self) -> int:
        """Launches that a sample is the mean of."""
        ...

    @property
    def size(self) -> int:
        """Launches that a sample runs, those that are not timed included."""
        ...

    def sample(self) -> Sample:
        """Take one sample. The device is idle before and after."""
        ...


@dataclass(frozen=True)
class TimedCell:
    """A cell bound and ready: `samplers` by measure.

    `sets` are the operand sets that the launches go through, and `bound` what each of them was bound to. `rerun` runs
    everything that was timed once more, and returns what the launch of each set returned.
    """

    samplers: Mapping[str, Sampler]
    sets: Sequence[Operands]
    bound: Sequence[Launches]
    rerun: Callable[[], Sequence[object]]
    rotation: Mapping[str, int] = field(default_factory=dict)


class Method(Protocol):
    """A method of timing, for all cells of one comparison."""

    def ready(self, bind: Bind, operands: Operands, *, like: TimedCell | None = None) -> TimedCell:
        """Bind a cell and make its samplers. Raises Uncapturable, and whatever binding and launching raise.

        `like` is the same cell made ready before: its samples must be of as many launches to be compared with.
        """
        ...


def rest(worked: float, duty: float, *, idle: float = 0.0) -> float:
    """Leave a GPU that worked for `worked` seconds, and has been idle for `idle` since, idle for so long that it works
    for the share `duty` of the time.

    Returns for how many more seconds.

    GEMMs that keep the tensor cores busy without rest run into the power cap, whose regulator then moves the clock by
    5% from one replay to the next. Rested as long as they work, the same replays repeat to 0.2% (H200).
    """
    more = max(worked * (1 / duty - 1) - idle, 0.0)
    time.sleep(more)
    return more


def rest_after(sample: Sample, started: float, duty: float) -> float:
    """`rest` after a sample that was begun at `started` (`perf_counter`)."""
    now = time.perf_counter()
    idle_from = now if sample.idle_from is None else sample.idle_from
    return rest(idle_from - started, duty, idle=now - idle_from)


def size_like(like: TimedCell | None, measure: str) -> int | None:
    """Size of a sample of `measure` in `like`."""
    sampler = like.samplers.get(measure) if like else None
    return sampler.size if sampler else None


def parts(measure: str, sets: Sequence[Launches]) -> dict[str, list[Launch]]:
    """The launches over all sets by measure: the whole, and quantization and GEMM alone if there are any."""
    found = {measure: [launches.total for launches in sets]}
    for name in ("quant", "gemm"):
        alone = [launch for launch in (getattr(launches, name) for launches in sets) if launch is not None]
        if alone:
            found[part(measure, name)] = alone
    return found
