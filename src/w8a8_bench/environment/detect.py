"""The devices of this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

from msgspec.structs import replace

from w8a8_bench.environment import telemetry
from w8a8_bench.environment.device import Device

AUTO = "auto"


class DeviceError(ValueError):
    """A device that was asked for is not there."""


def check_device_name(wanted: str) -> None:
    """Raise DeviceError if `wanted` can't be the name of a device on any machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", wanted, re.ASCII):
        raise DeviceError(f"device {wanted!r}: expected auto, cpu, cuda or cuda:<index>")


def resolve_device(wanted: str) -> Device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:<index>`; raises DeviceError if this machine has none."""
    import torch

    check_device_name(wanted)
    kind, _, index_text = wanted.partition(":")
    if kind == AUTO:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if kind == "cpu":
        total, available = host_memory()
        return Device(
            kind="cpu",
            index=0,
            name=cpu_name(),
            torch=(major, minor),
            memory_bytes=total,
            available_bytes=available,
        )
    if not torch.cuda.is_available():
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU or no usable driver"
        raise DeviceError(f"device {wanted!r}: {why}; use --device cpu, or see what `doctor` says")
    index, count = int(index_text or 0), torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"device {wanted!r}: this machine has {count} GPU{'s' if count > 1 else ''}, numbered from 0")
    facts = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    cuda = tuple(int(part) for part in str(torch.version.cuda).split(".")[:2])
    device = Device(
        kind="cuda",
        index=index,
        name=facts.name,
        torch=(major, minor),
        memory_bytes=total,
        available_bytes=free,
        cuda=(cuda[0], cuda[1]),
        capability=(facts.major, facts.minor),
        sm_count=facts.multi_processor_count,
        l2_bytes=facts.L2_cache_size,
        uuid=f"GPU-{facts.uuid}",
        pci_bus_id=_pci_bus_id(facts),
    )
    try:
        with telemetry.Telemetry.open(device) as opened:
            limits = opened.limits
    except telemetry.TelemetryUnavailable:
        return device
    return replace(device, max_sm_clock_mhz=limits.max_sm_clock_mhz, memory_bandwidth=limits.memory_bandwidth)


def gpus() -> int:
    """How many GPUs torch may use here."""
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def likely_gpus() -> int:
    """How many GPUs `gpus` will find, without importing torch, which may find fewer; 0 if NVML can't say."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = telemetry.count()
    return count if shown is None else min(count, len(shown.split(",")))


def expects_cuda(wanted: str) -> bool:
    """Whether the device called `wanted` will be a GPU, without importing torch.

    For `auto`: NVML knows a GPU, and the installed torch was built for CUDA. The GPU may still turn out not to work.
    """
    check_device_name(wanted)
    return wanted.startswith("cuda") or (wanted == AUTO and likely_gpus() > 0 and _torch_is_built_for_cuda())


def _torch_is_built_for_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = "\n".join(_lines(str(Path(spec.origin).with_name("version.py"))))
    return re.search(r"^cuda\b[^=]*= *['\"]", text, re.MULTILINE) is not None


def _pci_bus_id(facts: object) -> str | None:
    """`0000:1b:00.0`, from torch's properties of a GPU; None if this torch does not give its place on the bus."""
    domain, bus, slot = (getattr(facts, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if domain is None or bus is None or slot is None:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def cpu_name() -> str:
    if sys.platform == "linux":
        for line in _lines("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def host_memory() -> tuple[int, int]:
    """Bytes of main memory, in all and available now, within the control group's limit if there is one."""
    sizes = {}
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            sizes[name] = int(rest.split()[0]) * 1024
    if len(sizes) < 2:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit() and used[0].isdigit():
        total = min(total, int(limit[0]))
        available = min(available, int(limit[0]) - int(used[0]))
    return total, available


def _lines(path: str) -> list[str]:
    """Lines of a file under /proc or /sys; none if this system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
