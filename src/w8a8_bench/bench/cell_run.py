"""The cells of a comparison on their way through it, and the guard around every step of theirs.

Whatever a kernel's own code raises becomes its cell's status, and no other cell is lost for it.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from w8a8_bench.correctness.check import Verdict
from w8a8_bench.correctness.fingerprints import InputsWritten
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.returned_output import WrongOutput
from w8a8_bench.environment.device import Device
from w8a8_bench.environment.telemetry import Snapshot
from w8a8_bench.kernel import CompileError, Kernel, Prepared, Refused, Status, Step
from w8a8_bench.problem.comparison import Cell, Comparison
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.providers import registry
from w8a8_bench.providers.contract import NO_REASON, with_place
from w8a8_bench.text import in_one_line, one_line
from w8a8_bench.timing.method import Sample, TimedCell, Uncapturable
from w8a8_bench.timing.rotation import NotCold, ReservedMemory
from w8a8_bench.timing.settings import Settings

Progress = Callable[[str, str, float], None]
"""Told what is going on: phase (`prepare`, `check`, `time`), cell or block, and how much of the comparison is done."""

InHand = Callable[[int | None, Step | None], None]
"""Told the place of the cell whose kernel's own code runs from now on, and what of it; None when it has ended."""

HOLDING = (Status.OUT_OF_MEMORY, Status.FAILED, Status.COMPILE_ERROR, Status.UNCAPTURABLE)
"""Statuses after an exception, whose frames may hold memory that the next cell needs."""

NO_MEMORY = ("not enough memory", "can't allocate memory")
"""What torch says, as a plain RuntimeError, if main memory is refused: older and newer versions."""


class DeviceLost(RuntimeError):
    """A kernel left this process without a usable device: nothing more can be measured in it."""


@dataclass
class CellRun:
    """A cell on its way through the comparison. A status other than OK is final, and nothing is run after it.

    `build` names what its kernel compiles (`builds.name_of`).
    """

    cell: Cell
    index: int
    kernel: Kernel | None = None
    build: str | None = None
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

    def let_go(self) -> None:
        """Give back what holds memory."""
        self.prepared, self.timed = None, None


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


class CellRuns:
    """All cells of a comparison, and what may go wrong in a step of one.

    `prepared_s` and `rested_s` are the seconds that went into `prepare`, and into rests between samples.
    """

    def __init__(
        self,
        comparison: Comparison,
        device: Device,
        settings: Settings,
        progress: Progress,
        in_hand: InHand,
        reserved: ReservedMemory | None = None,
    ) -> None:
        self.comparison, self.device, self.settings, self.progress = comparison, device, settings, progress
        self.reserved = reserved
        self.budget = Budget(time.perf_counter(), settings.budget_s, settings.may_skip)
        self.all = [CellRun(cell, index) for index, cell in enumerate(comparison.cells)]
        self.prepared_s = self.rested_s = 0.0
        self._in_hand = in_hand

    @property
    def alive(self) -> list[CellRun]:
        return [run for run in self.all if run.alive]

    def let_go(self) -> None:
        """Give device memory back, so that a comparison finds none of another's."""
        for run in self.all:
            run.let_go()
        if self.reserved:
            self.reserved.give_back()
        if self.device.is_cuda:
            torch.cuda.empty_cache()

    def make_factory(
        self,
        data: Distribution,
        seed: int,
        *,
        weights_of: OperandFactory | None = None,
        edge_cases: bool = False,
    ) -> OperandFactory:
        shape, device = self.comparison.shape, self.device.torch_name
        return OperandFactory(shape, device, data=data.value, seed=seed, weights_of=weights_of, edge_cases=edge_cases)

    def synchronize(self) -> None:
        if self.device.is_cuda:
            torch.cuda.synchronize(self.device.index)

    @contextlib.contextmanager
    def in_hand_is(self, run: CellRun, step: Step) -> Iterator[None]:
        """While the kernel's own code runs: whoever watches this process knows whose it is."""
        self._in_hand(run.index, step)
        try:
            yield
            self.synchronize()
        finally:
            self._in_hand(None, None)

    def guarded(self, run: CellRun, step: Callable[[], None]) -> None:
        """Run one step of a cell; whatever it raises becomes the cell's status. Nothing is hidden: the text is kept.

        Raises DeviceLost if the CUDA context is beyond use: then everything in this process fails from here on.
        """
        stop_if_it_raises(run, step)
        if not run.alive:
            run.let_go()
        if run.status in HOLDING:
            gc.collect()
            if self.device.is_cuda:
                try:
                    self.synchronize()
                except RuntimeError:
                    raise DeviceLost(run.reason) from None
                torch.cuda.empty_cache()


def stop_if_it_raises(run: CellRun, step: Callable[[], None]) -> None:
    try:
        step()
    except (MemoryError, torch.OutOfMemoryError) as error:
        run.stop(Status.OUT_OF_MEMORY, in_one_line(error))
    except Uncapturable as error:
        run.stop(Status.UNCAPTURABLE, f"{error}; --timer event times what no graph can hold")
    except (NotCold, Refused) as error:
        run.stop(Status.UNSUPPORTED, str(error) or NO_REASON)
    except (InputsWritten, WrongOutput) as error:
        run.stop(Status.INCORRECT, str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            raise  # the user's, in whose process this is; a worker does not listen to SIGINT
        text = _said(run, error)
        status = Status.COMPILE_ERROR if _is_of_a_compiler(error) else Status.FAILED
        run.stop(Status.OUT_OF_MEMORY if any(said in text for said in NO_MEMORY) else status, text)


def _said(run: CellRun, error: BaseException) -> str:
    """What was raised, and where in code that is not this project's."""
    with contextlib.suppress(KeyError):  # a kernel of the caller's own, which no provider has
        return registry.provider_of(run.cell.kernel).said(error)
    return with_place(error)


def _is_of_a_compiler(error: BaseException) -> bool:
    """Whether a kernel's compiler raised this, which Triton's does at the first launch."""
    by_triton = any((c.__module__, c.__name__) == ("triton.errors", "TritonError") for c in type(error).__mro__)
    return by_triton or isinstance(error, CompileError)
