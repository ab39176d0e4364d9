"""The device that a kernel is asked about: plain facts, so that `supports` needs no GPU and no torch."""

from __future__ import annotations

from msgspec import Struct


def dotted(version: tuple[int, int] | None) -> str:
    """A compute capability or a version of CUDA as it is written."""
    return "none" if version is None else ".".join(map(str, version))


class Device(Struct, frozen=True, kw_only=True):
    """One CPU or GPU. Memory and cache in bytes; `capability` is CUDA's compute capability, None on a CPU.

    `torch` is the version of the torch that drives it and `cuda` that of its CUDA runtime, both as (major, minor).
    `max_sm_clock_mhz` and `memory_bandwidth` (nominal, bytes a second) are NVML's, None if it does not say. Of a MIG
    slice they and `pci_bus_id` are the whole GPU's.
    """

    kind: str
    index: int
    name: str
    torch: tuple[int, int]
    memory_bytes: int
    available_bytes: int
    cuda: tuple[int, int] | None = None
    capability: tuple[int, int] | None = None
    sm_count: int | None = None
    l2_bytes: int | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None
    max_sm_clock_mhz: float | None = None
    memory_bandwidth: float | None = None

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    @property
    def torch_name(self) -> str:
        """What `torch.device` takes: `cpu`, `cuda:1`."""
        return f"cuda:{self.index}" if self.is_cuda else self.kind
