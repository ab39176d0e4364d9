"""How many clusters of thread blocks a GPU runs at one time.

A cluster lies within one GPC, and GPUs of one name differ in how many multiprocessors each of their GPCs has, so that
the driver has to be asked. The compiler's package asks it with an empty kernel that it compiles; the answer is kept on
disk by the GPU's UUID.
"""

from __future__ import annotations

import functools

import torch

from w8a8_bench import cache
from w8a8_bench.kernels.cutlass import compile_cache
from w8a8_bench.kernels.cutlass.fitted import MEMORY_BANDWIDTH
from w8a8_bench.kernels.cutlass.geometry import CLUSTER_SIZES, Occupancy


@functools.cache
def of_device(index: int) -> Occupancy:
    """Of CUDA device `index`. Its context becomes the current one, if there is none."""
    properties = torch.cuda.get_device_properties(index)
    path = compile_cache.cache_directory() / f"clusters-{properties.uuid}.json"
    clusters = _counts(cache.read(path))
    if clusters is None:
        with torch.cuda.device(index):
            torch.cuda.current_stream().synchronize()  # a context for the driver to ask about
            clusters = _ask(index)
        cache.write(path, clusters)
    return Occupancy(
        properties.multi_processor_count, clusters, properties.name, _memory_bandwidth(properties) or MEMORY_BANDWIDTH
    )


def _memory_bandwidth(properties: object) -> float:
    """Nominal bytes a second: two transfers a clock. 0 if this PyTorch does not say."""
    khz, bits = (float(getattr(properties, name, 0)) for name in ("memory_clock_rate", "memory_bus_width"))
    return 2 * 1e3 * khz * bits / 8


def _ask(index: int) -> tuple[int, ...]:
    from cutlass.utils import HardwareInfo

    hardware = HardwareInfo(index)
    return tuple(hardware.get_max_active_clusters(size) for size in CLUSTER_SIZES)


def _counts(kept: object) -> tuple[int, ...] | None:
    """What an earlier process got; None if there is nothing, or nothing of use."""
    if not isinstance(kept, list) or [type(count) for count in kept] != [int] * len(CLUSTER_SIZES):
        return None
    return tuple(kept)
