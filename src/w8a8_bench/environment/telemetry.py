"""The state of a GPU through NVML, read around timed blocks while the GPU works.

Once a GPU is open, no query raises an error of NVML: a field that NVML does not give is None, and `Telemetry.errors`
holds the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from w8a8_bench.environment.device import Device

POWER_CAP = "power_cap"

REASONS = {
    0x004: POWER_CAP,
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "power_brake",
    0x100: "display_clock",
}
"""What holds the clock down, by its bit in nvml.h (nvmlClocksEventReason*).

Left out: 0x001, an idle GPU, and 0x002, a clock that someone has set: neither is throttling.
"""

SLOWDOWNS = ("sw_thermal", "hw_slowdown", "hw_thermal", "power_brake")
"""The reasons that void a timed block. The rest, a power cap above all, are an operating point."""


class TelemetryUnavailable(Exception):
    """There is no telemetry; the text says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A GPU at one moment. A field that NVML does not give is None.

    Power in watts: the mean of the last second, but the present value on GA100 and older (nvmlDeviceGetPowerUsage).
    Temperature in degrees Celsius. `throttle` holds the active reasons in the order of `REASONS`. It is also empty if
    NVML does not give them, and then `Telemetry.errors` has an entry.
    """

    power_w: float | None
    temperature_c: float | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    throttle: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GpuLimits:
    """What stays the same while a GPU runs. A field that NVML does not give is None."""

    power_limit_w: float | None
    max_sm_clock_mhz: float | None
    max_memory_clock_mhz: float | None
    memory_bus_bits: int | None

    @property
    def memory_bandwidth(self) -> float | None:
        """Bytes a second: 2 transfers a clock. H200: 6144 bits x 3201 MHz x 2 / 8 = 4.917e12."""
        if self.memory_bus_bits is None or self.max_memory_clock_mhz is None:
            return None
        return 2 * self.memory_bus_bits / 8 * self.max_memory_clock_mhz * 1e6


class Telemetry:
    """One GPU as NVML sees it. A MIG slice is seen as the whole GPU that it is part of.

    `limits` are read once, at the start. `errors` has, for each query that failed, what NVML said the first time.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._closed = False
        self.errors: dict[str, str] = {}
        self.limits = GpuLimits(
            power_limit_w=self._number("power_limit_w", "nvmlDeviceGetEnforcedPowerLimit", scale=1e-3),
            max_sm_clock_mhz=self._number("max_sm_clock_mhz", "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
            max_memory_clock_mhz=self._number("max_memory_clock_mhz", "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
            memory_bus_bits=self._ask("memory_bus_bits", ("nvmlDeviceGetMemoryBusWidth",)),
        )

    @classmethod
    def open(cls, device: Device) -> Telemetry:
        """Find the GPU by UUID. If NVML does not know it, as for a MIG slice: by PCI address, or as the only GPU.

        Never by index: NVML's order is not CUDA's, and CUDA_VISIBLE_DEVICES hides no GPU from NVML. Raises
        TelemetryUnavailable.
        """
        if not device.is_cuda:
            raise TelemetryUnavailable("the device is no GPU")
        nvml = _start()
        try:
            return cls(nvml, _find(nvml, device))
        except TelemetryUnavailable:
            _stop(nvml)
            raise

    def snapshot(self) -> Snapshot:
        nvml = self._nvml
        # CUDA 14 will remove one name of each pair, and older drivers lack the other.
        reasons = self._ask(
            "throttle", ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        )
        return Snapshot(
            power_w=self._number("power_w", "nvmlDeviceGetPowerUsage", scale=1e-3),
            temperature_c=self._number(
                "temperature_c",
                "nvmlDeviceGetTemperature",
                nvml.NVML_TEMPERATURE_GPU,
                or_else="nvmlDeviceGetTemperatureV",
            ),
            sm_clock_mhz=self._number("sm_clock_mhz", "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._number("memory_clock_mhz", "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            throttle=tuple(name for bit, name in REASONS.items() if (reasons or 0) & bit),
        )

    def other_processes(self, own: Collection[int]) -> int | None:
        """Compute processes on the GPU except `own`: the pids, as this process sees them, that use it already.

        If none of `own` is on NVML's list, as in a container with pids of its own, len(own) of the list are taken to be
        ours. None if NVML does not say, or lists nothing although we use the GPU: then its list is hidden.
        """
        listed = self._ask("other_processes", ("nvmlDeviceGetComputeRunningProcesses",))
        if listed is None:
            return None
        if own and not listed:
            self.errors.setdefault("other_processes", "NVML lists no process, not even this one")
            return None
        ours = sum(entry.pid in own for entry in listed) or len(own)
        return max(0, len(listed) - ours)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _stop(self._nvml)

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _number(
        self, query: str, function: str, *arguments: object, or_else: str | None = None, scale: float = 1
    ) -> float | None:
        value = self._ask(query, (function, or_else) if or_else else (function,), *arguments)
        return None if value is None else float(value) * scale

    def _ask(self, query: str, functions: tuple[str, ...], *arguments: object) -> Any:
        """The answer of the first of `functions` that both library and driver have; None if it fails."""
        for name in functions:
            function = getattr(self._nvml, name, None)
            if function is None:
                continue
            try:
                return function(self._handle, *arguments)
            except self._nvml.NVMLError_FunctionNotFound:
                continue
            except self._nvml.NVMLError as error:
                self.errors.setdefault(query, f"NVML says {error}")
                return None
        self.errors.setdefault(query, "NVML has no such query here")
        return None


def versions() -> dict[str, str]:
    """Versions of the GPU driver, of the CUDA that it offers (`driver_cuda`) and of NVML, or why one is missing."""
    try:
        with _started() as nvml:
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
            return {
                "driver": str(nvml.nvmlSystemGetDriverVersion()),
                "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
                "nvml": str(nvml.nvmlSystemGetNVMLVersion()),
            }
    except TelemetryUnavailable as why:
        return {"driver": f"unknown: {why}", "driver_cuda": f"unknown: {why}", "nvml": f"unavailable: {why}"}


def count() -> int:
    """GPUs that NVML knows, whether CUDA may use them or not; 0 if there is no NVML."""
    try:
        with _started() as nvml:
            return int(nvml.nvmlDeviceGetCount())
    except TelemetryUnavailable:
        return 0


@contextlib.contextmanager
def _started() -> Iterator[Any]:
    """As `_start`, and stopped again. What NVML raises meanwhile becomes TelemetryUnavailable too."""
    nvml = _start()
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(f"NVML says {error}") from None
    finally:
        _stop(nvml)


def _start() -> Any:
    """The module pynvml, its library initialized. Raises TelemetryUnavailable if there is none."""
    try:
        import pynvml
    except ModuleNotFoundError as error:
        if error.name != "pynvml":
            raise
        raise TelemetryUnavailable("nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise TelemetryUnavailable(f"NVML says {error}") from None
    return pynvml


def _stop(nvml: Any) -> None:
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return  # the driver has gone away first, and nothing is left to give back


def _find(nvml: Any, device: Device) -> Any:
    """NVML's handle of the device. Raises TelemetryUnavailable if none is certain to be this device."""
    said = []
    for function, address in (
        ("nvmlDeviceGetHandleByUUID", device.uuid),
        ("nvmlDeviceGetHandleByPciBusId", device.pci_bus_id),
    ):
        if address is not None:
            try:
                return getattr(nvml, function)(address)
            except nvml.NVMLError as error:
                said.append(f"{error} for {address}")
    try:
        count = int(nvml.nvmlDeviceGetCount())
        if count == 1:
            return nvml.nvmlDeviceGetHandleByIndex(0)
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(f"NVML says {error}") from None
    said.append(f"it has {count} GPUs")
    raise TelemetryUnavailable(f"NVML says {', and '.join(said)}")
