"""`time_host`, the original's way: the host's clock around a run of launches, on one operand set, caches warm.

On a GPU this measures the launch if that takes longer than the kernel; on a CPU it is the time of the work.
`host_launch` is the part of it that the host spends: the CPU time to enqueue one launch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_HOST
from w8a8_bench.timing.method import Bind, Sample, Sampler, TimedCell, parts, size_like

SAMPLE_S = 5e-3
"""Shortest sample. The clock and the loop cost about 0.1 us each, so that 5 ms keeps them under 1 part in 10,000."""

MAX_LAUNCHES = 1 << 20

ONE_LAUNCH = 2**34
"""2 m n k from which one launch is a sample on a CPU. At 3.4 TFLOP/s it lasts `SAMPLE_S`; on two cores it lasts 20 to
100 ms, and larger ones seconds, which to launch only to find that out is too much."""

ENQUEUED = 64
"""Launches enqueued in a row: well under what the driver's queue holds, past which the host waits for the device."""


def _synchronize(device: Device) -> None:
    if device.is_cuda:
        torch.cuda.synchronize(device.index)


class HostSampler:
    """Runs of `count` launches; without it, finds how many make a sample last `SAMPLE_S`, and warms up on the way."""

    def __init__(self, device: Device, launch: Launch, count: int | None) -> None:
        self._device, self._launch = device, launch
        self.launches = count or 1
        while not count:
            elapsed = self.sample().seconds * self.launches
            if elapsed >= SAMPLE_S or self.launches >= MAX_LAUNCHES:
                break
            more = math.ceil(self.launches * min(10.0, 1.2 * SAMPLE_S / max(elapsed, 1e-9)))
            self.launches = min(MAX_LAUNCHES, max(self.launches + 1, more))

    @property
    def size(self) -> int:
        return self.launches

    def sample(self) -> Sample:
        _synchronize(self._device)
        start = time.perf_counter()
        for _ in range(self.launches):
            self._launch()
        _synchronize(self._device)
        return Sample((time.perf_counter() - start) / self.launches)


class LaunchSampler:
    """Enqueues launches without waiting for them."""

    def __init__(self, device: Device, launch: Launch) -> None:
        self._device, self._launch = device, launch
        self.launches = self.size = ENQUEUED

    def sample(self) -> Sample:
        _synchronize(self._device)
        start = time.perf_counter()
        for _ in range(self.launches):
            self._launch()
        elapsed = time.perf_counter() - start
        _synchronize(self._device)
        return Sample(elapsed / self.launches)


def is_long(shape: GemmShape, device: Device) -> bool:
    """Whether a launch of this shape takes so long on `device` that one is a sample."""
    return not device.is_cuda and 2 * shape.m * shape.n * shape.k >= ONE_LAUNCH


class HostMethod:
    """Times the cells of one comparison by the host's clock, on the operands as they are."""

    def __init__(self, device: Device, measures: Sequence[str]) -> None:
        self._device, self._measures = device, measures

    def ready(self, bind: Bind, operands: Operands, *, like: TimedCell | None = None) -> TimedCell:
        bound = bind(operands)
        samplers: dict[str, Sampler] = {}
        for measure, launches in parts(TIME_HOST, [bound]).items():
            size = size_like(like, measure)
            if measure == TIME_HOST and is_long(operands.problem.shape, self._device):
                size = 1
            samplers[measure] = HostSampler(self._device, launches[0], size)
        if HOST_LAUNCH in self._measures:
            samplers[HOST_LAUNCH] = LaunchSampler(self._device, bound.total)

        def rerun() -> list[object]:
            returned = bound.total()
            _synchronize(self._device)
            return [returned]

        return TimedCell(samplers, [operands], [bound], rerun)
