"""`time_host`: the original's way. The host's clock around a run of launches, on one operand set, caches warm.

On a GPU this measures the launch wherever that takes longer than the kernel; on a CPU it is the time of the work.
"""

from __future__ import annotations

import math
import time

import torch

from w8a8_bench.device import Device
from w8a8_bench.kernel import Launch

TIME_HOST = "time_host"

SAMPLE_S = 5e-3
"""Shortest sample. The clock and the loop cost about 0.1 us each, so that 5 ms keeps them under 1 part in 10,000."""

MAX_LAUNCHES = 1 << 20


class HostTimer:
    """Times launches on one device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def synchronize(self) -> None:
        if self._device.is_cuda:
            torch.cuda.synchronize(self._device.index)

    def calibrate(self, launch: Launch) -> int:
        """Launches a sample, so that it lasts `SAMPLE_S`. Warms the launch up on the way."""
        count = 1
        while True:
            elapsed = self.sample(launch, count) * count
            if elapsed >= SAMPLE_S or count >= MAX_LAUNCHES:
                return count
            count = min(MAX_LAUNCHES, max(count + 1, math.ceil(count * min(10.0, 1.2 * SAMPLE_S / max(elapsed, 1e-9)))))

    def sample(self, launch: Launch, count: int) -> float:
        """Seconds per launch over `count` launches; the device is idle before and after."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            launch()
        self.synchronize()
        return (time.perf_counter() - start) / count
