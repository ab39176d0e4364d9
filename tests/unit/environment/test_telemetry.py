"""NVML's telemetry against a stand-in for pynvml: every field, and every way in which NVML may be of no help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from copies import replace
from made_devices import CPU, H200

from w8a8_bench.environment import detect, telemetry, versions
from w8a8_bench.environment.device import Device
from w8a8_bench.environment.telemetry import REASONS, SLOWDOWNS, Telemetry, TelemetryUnavailable

UUID = "GPU-6f0b1a2c"
PCI = "0000:1b:00.0"
GPU = replace(H200, uuid=UUID, max_sm_clock_mhz=None, memory_bandwidth=None)
QUERIES = {
    "power_w": "nvmlDeviceGetPowerUsage",
    "temperature_c": "nvmlDeviceGetTemperature",
    "sm_clock_mhz": "nvmlDeviceGetClockInfo",
    "memory_clock_mhz": "nvmlDeviceGetClockInfo",
    "throttle": "nvmlDeviceGetCurrentClocksEventReasons",
}


class NVMLError(Exception):
    pass


class NVMLError_FunctionNotFound(NVMLError):  # noqa: N801, RUF100
    pass


@dataclass
class FakeGpu:
    """What the stand-in answers; a function named in `failing` raises that instead."""

    gpus: int = 1
    uuids: tuple[str, ...] = (UUID,)
    addresses: tuple[str, ...] = ()
    reasons: int = 0
    processes: list[int] = field(default_factory=list)
    failing: dict[str, NVMLError] = field(default_factory=dict)
    started: int = 0
    calls: list[str] = field(default_factory=list)
    module: ModuleType = field(default_factory=lambda: ModuleType("pynvml"))

    def __post_init__(self) -> None:
        module: Any = self.module
        module.NVMLError, module.NVMLError_FunctionNotFound = NVMLError, NVMLError_FunctionNotFound
        module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
        for name, answer in {
            "nvmlInit": lambda: self._count(+1),
            "nvmlShutdown": lambda: self._count(-1),
            "nvmlSystemGetDriverVersion": lambda: "580.159.03",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
            "nvmlSystemGetNVMLVersion": lambda: "13.580.159",
            "nvmlDeviceGetCount": lambda: self.gpus,
            "nvmlDeviceGetHandleByUUID": lambda uuid: self._among(uuid, self.uuids),
            "nvmlDeviceGetHandleByPciBusId": lambda address: self._among(address, self.addresses),
            "nvmlDeviceGetHandleByIndex": lambda index: f"handle of index {index}",
            "nvmlDeviceGetPowerUsage": lambda handle: 412_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
            "nvmlDeviceGetTemperature": lambda handle, sensor: 63,
            "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1785, 2: 3201}[clock],
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: {1: 1980, 2: 3201}[clock],
            "nvmlDeviceGetMemoryBusWidth": lambda handle: 6144,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: self.reasons,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=pid) for pid in self.processes],
        }.items():
            setattr(module, name, self._call(name, answer))

    def _call(self, name: str, answer: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self.calls.append(name)
            if name in self.failing:
                raise self.failing[name]
            return answer(*arguments)

        return call

    def _count(self, by: int) -> None:
        self.started += by

    def _among(self, address: str, known: tuple[str, ...]) -> str:
        if address not in known:
            raise NVMLError("Not Found")
        return f"handle of {address}"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    monkeypatch.setitem(sys.modules, "pynvml", fake.module)
    return fake


def opened(device: Device = GPU) -> Telemetry:
    return Telemetry.open(device)


def refused(device: Device = GPU) -> str:
    with pytest.raises(TelemetryUnavailable) as refusal:
        Telemetry.open(device)
    return str(refusal.value)


def test_snapshot_has_every_field_in_its_unit(gpu: FakeGpu) -> None:
    seen = opened()
    gpu.calls.clear()
    assert asdict(seen.snapshot()) == {
        "power_w": 412.5,
        "temperature_c": 63.0,
        "sm_clock_mhz": 1785.0,
        "memory_clock_mhz": 3201.0,
        "throttle": (),
    }
    assert len(gpu.calls) == 5
    assert seen.errors == {}


def test_limits_and_the_bandwidth_that_follows_from_them(gpu: FakeGpu) -> None:
    limits = opened().limits
    assert (limits.power_limit_w, limits.max_sm_clock_mhz, limits.max_memory_clock_mhz) == (700.0, 1980.0, 3201.0)
    assert limits.memory_bus_bits == 6144
    assert limits.memory_bandwidth == pytest.approx(4.917e12, rel=1e-4)
    assert replace(limits, memory_bus_bits=None).memory_bandwidth is None
    assert replace(limits, max_memory_clock_mhz=None).memory_bandwidth is None


@pytest.mark.parametrize(("bit", "reason"), REASONS.items())
def test_each_reason_for_throttling_has_its_bit(gpu: FakeGpu, bit: int, reason: str) -> None:
    gpu.reasons = bit
    assert opened().snapshot().throttle == (reason,)


def test_bits_are_those_of_the_library() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {
        "power_cap": "SwPowerCap",
        "hw_slowdown": "HwSlowdown",
        "sync_boost": "SyncBoost",
        "sw_thermal": "SwThermalSlowdown",
        "hw_thermal": "HwThermalSlowdown",
        "power_brake": "HwPowerBrakeSlowdown",
        "display_clock": "DisplayClockSetting",
    }
    bits = {reason: getattr(pynvml, f"nvmlClocksEventReason{name}") for reason, name in names.items()}
    assert bits == {reason: bit for bit, reason in REASONS.items()}


def test_an_idle_gpu_and_a_set_clock_are_no_throttling(gpu: FakeGpu) -> None:
    gpu.reasons = 0x1 | 0x2
    assert opened().snapshot().throttle == ()


def test_only_heat_and_hardware_void_a_block(gpu: FakeGpu) -> None:
    gpu.reasons = 0x1FF
    snapshot = opened().snapshot()
    assert set(snapshot.throttle) == set(REASONS.values())
    assert set(snapshot.throttle) - set(SLOWDOWNS) == {"power_cap", "sync_boost", "display_clock"}


@pytest.mark.parametrize("gone", ["from the library", "from the driver"])
def test_older_and_newer_names_of_a_query_serve(gpu: FakeGpu, gone: str) -> None:
    module: Any = gpu.module
    module.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x4
    module.nvmlDeviceGetTemperatureV = lambda handle, sensor: 64
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperature"):
        if gone == "from the library":
            delattr(module, name)
        else:
            gpu.failing[name] = NVMLError_FunctionNotFound("Function Not Found")
    seen = opened()
    snapshot = seen.snapshot()
    assert snapshot.throttle == ("power_cap",) and snapshot.temperature_c == 64.0
    assert seen.errors == {}


def test_a_query_under_no_name_is_missing_and_says_so(gpu: FakeGpu) -> None:
    del gpu.module.nvmlDeviceGetTemperature  # type: ignore[attr-defined]
    seen = opened()
    assert seen.snapshot().temperature_c is None
    assert seen.errors == {"temperature_c": "NVML has no such query here"}


@pytest.mark.parametrize(("query", "function"), QUERIES.items())
def test_a_query_that_is_not_supported_leaves_the_others(gpu: FakeGpu, query: str, function: str) -> None:
    gpu.failing[function] = NVMLError("Not Supported")
    seen = opened()
    snapshot = asdict(seen.snapshot())
    failed = {name for name, its_function in QUERIES.items() if its_function == function}
    assert {name for name, value in snapshot.items() if not value and name != "throttle"} == failed - {"throttle"}
    assert snapshot["throttle"] == ()
    assert seen.errors == dict.fromkeys(failed, "NVML says Not Supported")
    assert query in seen.errors


def test_an_error_in_the_middle_of_a_run_is_kept_and_not_raised(gpu: FakeGpu) -> None:
    gpu.failing["nvmlDeviceGetPowerUsage"] = NVMLError("Not Supported")
    seen = opened()
    assert seen.snapshot().temperature_c == 63.0
    for name in [*QUERIES.values(), "nvmlDeviceGetComputeRunningProcesses", "nvmlShutdown"]:
        gpu.failing[name] = NVMLError("GPU is lost")
    snapshot = seen.snapshot()
    assert (snapshot.power_w, snapshot.temperature_c, snapshot.sm_clock_mhz, snapshot.throttle) == (
        None,
        None,
        None,
        (),
    )
    assert seen.other_processes([1]) is None
    assert seen.errors["power_w"] == "NVML says Not Supported"
    assert seen.errors["temperature_c"] == seen.errors["other_processes"] == "NVML says GPU is lost"
    seen.close()


def test_a_cpu_has_no_telemetry(gpu: FakeGpu) -> None:
    assert refused(CPU) == "the device is no GPU"
    assert gpu.calls == []


def test_a_missing_library_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert refused() == "nvidia-ml-py is not installed"
    facts = versions.describe(GPU)
    assert facts["nvml"] == "unavailable: nvidia-ml-py is not installed"
    assert facts["driver"] == facts["driver_cuda"] == facts["power_limit_w"] == "unknown: nvidia-ml-py is not installed"


def test_an_nvml_that_does_not_start_says_why(gpu: FakeGpu) -> None:
    gpu.failing["nvmlInit"] = NVMLError("Driver Not Loaded")
    assert refused() == "NVML says Driver Not Loaded"
    assert versions.describe(GPU)["nvml"] == "unavailable: NVML says Driver Not Loaded"
    assert "nvmlShutdown" not in gpu.calls


def test_the_environment_line_names_nvml_and_the_power_limit(gpu: FakeGpu) -> None:
    facts = versions.describe(GPU)
    assert {name: facts[name] for name in ("driver", "driver_cuda", "nvml", "power_limit_w")} == {
        "driver": "580.159.03",
        "driver_cuda": "13.1",
        "nvml": "13.580.159",
        "power_limit_w": 700.0,
    }
    json.dumps(facts)
    assert gpu.started == 0
    gpu.failing["nvmlDeviceGetEnforcedPowerLimit"] = NVMLError("Not Supported")
    assert versions.describe(GPU)["power_limit_w"] == "unknown: NVML says Not Supported"
    gpu.failing["nvmlSystemGetDriverVersion"] = NVMLError("Unknown Error")
    assert versions.describe(GPU)["driver"] == "unknown: NVML says Unknown Error"
    assert gpu.started == 0
    assert "nvml" not in versions.describe(CPU)


def test_gpus_are_counted_as_far_as_cuda_may_use_them(gpu: FakeGpu, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu.gpus = 8
    assert (telemetry.count(), detect.likely_gpus()) == (8, 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-6f0b")
    assert detect.likely_gpus() == 2
    gpu.failing["nvmlDeviceGetCount"] = NVMLError("driver lost")
    assert (telemetry.count(), detect.likely_gpus()) == (0, 0)
    assert gpu.started == 0


def test_the_uuid_decides_among_several_gpus(gpu: FakeGpu) -> None:
    gpu.gpus = 8
    opened()
    assert "nvmlDeviceGetHandleByIndex" not in gpu.calls


def test_a_slice_is_found_by_its_place_on_the_bus(gpu: FakeGpu) -> None:
    gpu.gpus, gpu.uuids, gpu.addresses = 8, (), (PCI,)
    opened(replace(GPU, pci_bus_id=PCI))
    assert "nvmlDeviceGetHandleByIndex" not in gpu.calls


def test_the_only_gpu_is_the_one(gpu: FakeGpu) -> None:
    gpu.uuids = ()
    assert opened().snapshot().power_w == 412.5
    opened(replace(GPU, uuid=None))


def test_no_gpu_is_taken_for_another(gpu: FakeGpu) -> None:
    gpu.gpus, gpu.uuids = 8, ()
    assert refused(replace(GPU, pci_bus_id=PCI)) == (
        f"NVML says Not Found for {UUID}, and Not Found for {PCI}, and it has 8 GPUs"
    )
    assert versions.describe(GPU)["nvml"] == f"unavailable: NVML says Not Found for {UUID}, and it has 8 GPUs"
    gpu.failing["nvmlDeviceGetCount"] = NVMLError("Unknown Error")
    assert refused() == "NVML says Unknown Error"
    assert gpu.started == 0


def test_closing_gives_back_what_opening_took_once(gpu: FakeGpu) -> None:
    other = opened()
    with opened() as seen:
        assert gpu.started == 2
    seen.close()
    assert gpu.started == 1
    other.close()
    assert gpu.started == 0


def test_others_are_told_from_ours_by_pid(gpu: FakeGpu) -> None:
    gpu.processes = [71, 72, 73]
    assert opened().other_processes({71, 70}) == 2


def test_alone_is_alone(gpu: FakeGpu) -> None:
    gpu.processes = [71]
    assert opened().other_processes([71]) == 0


def test_without_own_pids_everyone_is_another(gpu: FakeGpu) -> None:
    assert opened().other_processes(()) == 0
    gpu.processes = [71]
    assert opened().other_processes(()) == 1


def test_in_another_pid_namespace_as_many_as_ours_are_taken_to_be_ours(gpu: FakeGpu) -> None:
    gpu.processes = [645400, 645777]
    assert opened().other_processes([71]) == 1
    assert opened().other_processes([71, 72, 73]) == 0


def test_a_list_without_even_us_says_nothing(gpu: FakeGpu) -> None:
    seen = opened()
    assert seen.other_processes([71]) is None
    assert seen.errors == {"other_processes": "NVML lists no process, not even this one"}


def test_a_library_that_breaks_while_it_is_imported_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "pynvml.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        Telemetry.open(GPU)


@pytest.fixture
def torchs_gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    facts = SimpleNamespace(
        name="H200", major=9, minor=0, multi_processor_count=132, L2_cache_size=62914560, uuid=UUID.removeprefix("GPU-")
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1 << 36, 1 << 37))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    return facts


def test_a_device_knows_its_limits_from_nvml(gpu: FakeGpu, torchs_gpu: SimpleNamespace) -> None:
    device = detect.resolve_device("cuda")
    assert device.max_sm_clock_mhz == 1980.0
    assert device.memory_bandwidth == pytest.approx(4.917e12, rel=1e-4)
    assert device.pci_bus_id is None
    assert gpu.started == 0
    assert msgspec.json.decode(msgspec.json.encode(device), type=Device) == device
    torchs_gpu.pci_domain_id, torchs_gpu.pci_bus_id, torchs_gpu.pci_device_id = 0, 0x1B, 0
    assert detect.resolve_device("cuda").pci_bus_id == PCI


def test_a_device_without_nvml_lacks_its_limits_alone(
    monkeypatch: pytest.MonkeyPatch, torchs_gpu: SimpleNamespace
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    device = detect.resolve_device("cuda")
    assert (device.name, device.max_sm_clock_mhz, device.memory_bandwidth) == ("H200", None, None)


def test_a_device_of_an_older_file_is_read() -> None:
    data = msgspec.to_builtins(GPU)
    for name in ("pci_bus_id", "max_sm_clock_mhz", "memory_bandwidth"):
        del data[name]
    assert msgspec.convert(data, Device) == GPU


def test_versions_need_no_gpu(gpu: FakeGpu) -> None:
    gpu.gpus, gpu.uuids = 8, ()
    assert telemetry.versions()["nvml"] == "13.580.159"
