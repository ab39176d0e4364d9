"""`time_event`: CUDA events around single launches, the L2 scrubbed before each. For what no graph can hold.

The scrub keeps the GPU busy while the host enqueues the events and the launch, so that the host is not in the time
unless it takes longer than the scrub; the gaps between event and kernel are.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.problem.memory import L2_TIMES
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing import device_code, rotation
from w8a8_bench.timing.host import LaunchSampler
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_EVENT
from w8a8_bench.timing.method import Bind, Sample, Sampler, TimedCell, parts

SAMPLE_LAUNCHES = 16
"""Launches a sample, whose median it is."""


class EventSampler:
    """Events around launches, a scrub before each."""

    def __init__(self, device: Device, launch: Launch, scrubbed: torch.Tensor) -> None:
        self._device, self._launch, self._scrubbed = device, launch, scrubbed
        self._code = device_code.load(device)
        self._slots = torch.zeros(2, device_code.SM_SLOTS, 2, dtype=torch.int64, device=scrubbed.device)
        self._pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(SAMPLE_LAUNCHES)
        ]
        self.launches, self.size = 1, SAMPLE_LAUNCHES

    def sample(self) -> Sample:
        self._code.read_clocks(self._slots[0])
        for before, after in self._pairs:
            self._code.read_all(self._scrubbed)
            before.record()
            self._launch()
            after.record()
        self._code.read_clocks(self._slots[1])
        torch.cuda.synchronize(self._device.index)
        before_all, after_all = self._slots.cpu()
        seconds = median(1e-3 * before.elapsed_time(after) for before, after in self._pairs)
        return Sample(seconds, device_code.clock_mhz(before_all, after_all))


class EventMethod:
    """Times the cells of one comparison by events, on one operand set."""

    def __init__(self, device: Device, measures: Sequence[str]) -> None:
        self._device, self._measures = device, measures
        size = L2_TIMES * (device.l2_bytes or 0)
        if not size:
            raise rotation.NotCold("the size of this GPU's L2 is unknown, so that no scrub is known to empty it")
        self._scrubbed = torch.zeros(size, dtype=torch.uint8, device=device.torch_name)

    def ready(self, bind: Bind, operands: Operands, *, like: TimedCell | None = None) -> TimedCell:
        bound = bind(operands)
        bound.total()
        samplers: dict[str, Sampler] = {
            measure: EventSampler(self._device, launches[0], self._scrubbed)
            for measure, launches in parts(TIME_EVENT, [bound]).items()
        }
        if HOST_LAUNCH in self._measures:
            samplers[HOST_LAUNCH] = LaunchSampler(self._device, bound.total)
        described = {"sets": 1, "bytes": rotation.set_bytes(operands), "scrubbed": 1}
        return TimedCell(samplers, [operands], [bound], lambda: [bound.total()], described)
