"""How long a sweep will take: a guess before it starts, mended by the pace of what is done.

The figures are of kernels that were compiled before, on an H200 with 16 cores and on two cores of a server's CPU; a
guess within a factor of three is what they are for. Kernels that will turn out not to run here are counted too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.problem.work import bytes_moved, flops
from w8a8_bench.timing.settings import Settings

START_S = 5.0
"""Importing torch and waking the device."""

GPU_CELL_S = 0.03
"""Preparing a cell, checking it and making it ready, on a GPU."""

GPU_SAMPLE_S = 3e-3
GPU_OPERATIONS_S, GPU_BYTES_S = 6e14, 3.5e12
GPU_FLOAT64_OPERATIONS_S = 3e13

CPU_CELL_S = 0.1
CPU_SAMPLE_S = 6e-3
CPU_OPERATIONS_S = 1.5e11
CPU_WEIGHT_S = 5e-9
"""An element of the weights, quantized and turned into float64 for the oracle, once a format and scheme."""

LAUNCHES = 5
"""The least that a replay holds."""

CHECKS = 2
"""Answers judged for each cell: before and after it is timed."""


def comparison_s(comparison: Comparison, settings: Settings, *, cuda: bool) -> float:
    """Seconds that one comparison takes, as far as can be told from its shapes."""
    total = _on_a_gpu(comparison, settings) if cuda else _on_a_cpu(comparison, settings)
    return min(total, settings.budget_s) if settings.budget_s is not None and settings.may_skip else total


def _on_a_gpu(comparison: Comparison, settings: Settings) -> float:
    passes, blocks = len(settings.measures) * settings.processes, _blocks(settings)
    total = 0.0
    for problem in (cell.problem for cell in comparison.cells):
        launch = max(flops(problem) / GPU_OPERATIONS_S, bytes_moved(problem) / GPU_BYTES_S)
        total += GPU_CELL_S + blocks * passes * max(GPU_SAMPLE_S, LAUNCHES * launch) / settings.duty
    product = flops(comparison.cells[0].problem) if comparison.cells else 0
    return total + CHECKS * len(_operands(comparison)) * product / GPU_FLOAT64_OPERATIONS_S


def _on_a_cpu(comparison: Comparison, settings: Settings) -> float:
    launches_s = [flops(cell.problem) / CPU_OPERATIONS_S for cell in comparison.cells]
    timing_s = _blocks(settings) * settings.processes * sum(max(CPU_SAMPLE_S, launch) for launch in launches_s)
    if settings.budget_s is not None:
        timing_s = min(timing_s, max(settings.budget_s, sum(launches_s)))
    weights = CHECKS * len(_operands(comparison)) * comparison.shape.n * comparison.shape.k
    return sum(CPU_CELL_S + CHECKS * launch for launch in launches_s) + CPU_WEIGHT_S * weights + timing_s


def _blocks(settings: Settings) -> float:
    return (settings.stop.min_blocks + settings.stop.max_blocks) / 2


def _operands(comparison: Comparison) -> set[object]:
    """Pairs of A and B, each of which the oracle multiplies for itself."""
    return {(cell.problem.format, cell.problem.scaling, cell.problem.azp) for cell in comparison.cells}


class Pace:
    """What is left of a sweep in seconds: the guess, scaled by how long what is done took against its own guess."""

    def __init__(self, comparisons: Iterable[Comparison], settings: Settings, *, cuda: bool, devices: int) -> None:
        self._guess_s = {c.index: comparison_s(c, settings, cuda=cuda) for c in comparisons}
        self._devices = devices
        self._started = time.monotonic()
        self._done_s = 0.0
        self._share: dict[int, float] = {}

    @property
    def whole_s(self) -> float:
        """The guess for all that is not done, without starting up."""
        return sum(self._guess_s.values()) / self._devices

    def begin(self) -> None:
        """The first comparison begins."""
        self._started = time.monotonic()

    def at(self, index: int, share: float) -> None:
        """`share` of a comparison is done."""
        self._share[index] = share

    def finished(self, index: int) -> None:
        self._done_s += self._guess_s.pop(index, 0.0)
        self._share.pop(index, None)

    def left_s(self) -> float:
        """Seconds left. The guess counts as much as what was measured until a tenth of the sweep is done."""
        begun_s = sum(share * self._guess_s.get(index, 0.0) for index, share in self._share.items())
        left_s = sum(self._guess_s.values()) - begun_s
        done_s = self._done_s + begun_s
        trust_s = (left_s + done_s) / 10
        took_s = (time.monotonic() - self._started) * self._devices
        pace = (took_s + trust_s) / (done_s + trust_s) if done_s + trust_s else 1.0
        return pace * left_s / self._devices


def duration(seconds: float) -> str:
    """A guessed time for a person: `8 s`, `1 min 20 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 600:
        tens = round(seconds / 10)
        minutes, rest = divmod(10 * tens, 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes} min" if not hours else f"{hours} h" + (f" {rest} min" if rest else "")
