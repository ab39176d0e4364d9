"""What the numbers were taken on: device, driver, versions. Every fact that is missing says why it is."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import w8a8_bench
from w8a8_bench.device import Device
from w8a8_bench.environment import telemetry

AUTO = "auto"


class DeviceError(ValueError):
    """A device that was asked for is not there."""


def check_device_name(wanted: str) -> None:
    """Raise DeviceError where `wanted` is called as no device is, whatever this machine has."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", wanted, re.ASCII):
        raise DeviceError(f"device {wanted!r}: expected auto, cpu, cuda or cuda:<index>")


def resolve_device(wanted: str) -> Device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:<index>`; raises DeviceError where there is none such here."""
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
            name=_cpu_name(),
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
    opened = telemetry.Telemetry.open(device)
    if isinstance(opened, telemetry.Unavailable):
        return device
    with opened:
        limits = opened.limits
    return replace(device, max_sm_clock_mhz=limits.max_sm_clock_mhz, memory_bandwidth=limits.memory_bandwidth)


def gpus() -> int:
    """How many GPUs torch may use here."""
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def likely_gpus() -> int:
    """How many GPUs `gpus` will find, told at once and without torch, which may find fewer; 0 where NVML can't say."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = telemetry.count()
    return count if shown is None else min(count, len(shown.split(",")))


def expects_cuda(wanted: str) -> bool:
    """Whether the device called `wanted` will be a GPU, told at once and without importing torch.

    For `auto`: NVML knows a GPU, and the installed torch was built for CUDA. It may turn out not to work all the same.
    """
    check_device_name(wanted)
    return wanted.startswith("cuda") or (wanted == AUTO and likely_gpus() > 0 and _torch_is_built_for_cuda())


def _torch_is_built_for_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = "\n".join(_lines(str(Path(spec.origin).with_name("version.py"))))
    return re.search(r"^cuda\b[^=]*= *['\"]", text, re.MULTILINE) is not None


def describe(device: Device) -> dict[str, object]:
    """The environment line of a results file: versions and machine, nothing that changes while the run goes on."""
    import torch

    facts: dict[str, object] = {
        "w8a8_bench": w8a8_bench.__version__,
        "git_revision": _git_revision(),
        "source": _source_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _version("triton"),
    }
    if device.is_cuda:
        facts.update(_nvml_facts(device))
    return facts


def _nvml_facts(device: Device) -> dict[str, object]:
    """Versions of the driver, of the CUDA that it offers and of NVML, and the GPU's power limit in watts."""
    facts: dict[str, object] = {**telemetry.versions()}
    opened = telemetry.Telemetry.open(device)
    if isinstance(opened, telemetry.Unavailable):
        return {**facts, "nvml": f"unavailable: {opened.reason}", "power_limit_w": f"unknown: {opened.reason}"}
    with opened:
        limit = opened.limits.power_limit_w
        facts["power_limit_w"] = f"unknown: {opened.errors['power_limit_w']}" if limit is None else limit
    return facts


def _pci_bus_id(facts: object) -> str | None:
    """`0000:1b:00.0`, from torch's properties of a GPU; None where this torch does not give its place on the bus."""
    domain, bus, slot = (getattr(facts, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if domain is None or bus is None or slot is None:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    """Commit of the source tree that runs, with `+changes` where files differ from it."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return "not a git checkout"
    try:
        # Without its optional lock: `status` killed while it holds that would leave the checkout locked.
        git = ["git", "--no-optional-locks", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {type(error).__name__}"
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _source_digest() -> str:
    """A fingerprint of this package's own files, kernels included, wherever it is installed."""
    package = Path(w8a8_bench.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in _lines("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def host_memory() -> tuple[int, int]:
    """Bytes of main memory, in all and available now, within the control group's limit where there is one."""
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
    """Lines of a file of the kernel's; none where this system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
