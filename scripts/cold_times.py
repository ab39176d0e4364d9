"""What the scripts that measure Triton's kernels share: the shapes, and times with a cold L2 taken side by side."""

from __future__ import annotations

import csv
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from statistics import median
from typing import TypeVar

from w8a8_bench.environment.device import Device
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing.cuda_graph import GraphMethod
from w8a8_bench.timing.measures import TIME_COLD
from w8a8_bench.timing.method import Bind, rest


def shapes_of(path: Path) -> tuple[GemmShape, ...]:
    """Of a CSV file with columns m, n, k."""
    with path.open(newline="") as file:
        return tuple(GemmShape(**{name: int(row[name]) for name in ("m", "n", "k")}) for row in csv.DictReader(file))


SHAPES = shapes_of(Path(__file__).with_name("peers.csv"))
"""Those of the libraries' comparison: the layers of Llama-3-8B (qkv, o, gate and up, down), and a square one."""

DUTY = 0.5
"""As the benchmark's own: the GPU rests as long as it works, or large GEMMs run into the power cap."""

K = TypeVar("K", bound=Hashable)


class ColdTimer:
    """Times of several ways to compute one problem, all on the same rotation of operands."""

    def __init__(self, device: Device, operands: Operands) -> None:
        self._method = GraphMethod(device, (TIME_COLD,))
        self._operands = operands

    def seconds(self, binds: Mapping[K, Bind], samples: int) -> dict[K, float]:
        """The median of `samples` periods of each, taken in turns."""
        samplers = {key: self._method.ready(bind, self._operands).samplers[TIME_COLD] for key, bind in binds.items()}
        taken: dict[K, list[float]] = {key: [] for key in samplers}
        for _ in range(samples):
            for key, sampler in samplers.items():
                started = time.perf_counter()
                taken[key].append(sampler.sample().seconds)
                rest(time.perf_counter() - started, DUTY)
        return {key: median(values) for key, values in taken.items()}
