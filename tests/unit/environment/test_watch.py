"""The watch over a GPU: which blocks are void, who else was there, and what is said where NVML is silent."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import pytest

from w8a8_bench.environment import watch as watch_module
from w8a8_bench.environment.device import Device
from w8a8_bench.environment.telemetry import REASONS, SLOWDOWNS, Snapshot, Telemetry, TelemetryUnavailable
from w8a8_bench.environment.watch import Watch

GPU = Device(kind="cuda", index=0, name="H200", torch=(2, 13), memory_bytes=1 << 37, available_bytes=1 << 37)
CPU = Device(kind="cpu", index=0, name="CPU", torch=(2, 13), memory_bytes=1 << 34, available_bytes=1 << 34)


def seen(*throttle: str, power: float | None = 500.0, heat: float | None = 60.0, memory: float | None = 3201.0):
    return Snapshot(
        power_w=power, temperature_c=heat, sm_clock_mhz=1980.0, memory_clock_mhz=memory, throttle=tuple(throttle)
    )


class FakeTelemetry(Telemetry):
    """Shows `snapshots` one after another, and as many other processes as `others` says at each question."""

    def __init__(self, snapshots: Sequence[Snapshot] = (), others: Sequence[int | None] = (0, 0)) -> None:
        self._snapshots, self._others = iter(snapshots), iter(others)
        self.errors = {}
        self.closed = 0
        self.asked: list[list[int]] = []

    def snapshot(self) -> Snapshot:
        return next(self._snapshots)

    def other_processes(self, own) -> int | None:
        self.asked.append(list(own))
        return next(self._others)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def telemetry(monkeypatch):
    def use(fake):
        def opened(cls, device):
            if isinstance(fake, TelemetryUnavailable):
                raise fake
            return fake

        monkeypatch.setattr(watch_module.Telemetry, "open", classmethod(opened))
        return fake

    return use


def after(watch: Watch, looks: int = 1) -> bool:
    """Whether a block with so many looks is void."""
    for _ in range(looks):
        watch.look()
    return watch.end_block()


@pytest.mark.parametrize("reason", list(REASONS.values()))
def test_a_slowdown_voids_the_block_and_an_operating_point_does_not(telemetry, reason):
    telemetry(FakeTelemetry([seen(), seen(reason), seen()]))
    with Watch(GPU) as watch:
        assert after(watch, looks=3) is (reason in SLOWDOWNS)
    (block,) = watch.to_json()["blocks"]
    assert block["throttle"] == [reason]
    assert block["void"] is (reason in SLOWDOWNS)


def test_the_reasons_that_void_are_heat_and_the_hardwares_orders():
    assert set(SLOWDOWNS) == {"sw_thermal", "hw_slowdown", "hw_thermal", "power_brake"}


def test_a_slowdown_voids_its_own_block_alone(telemetry):
    telemetry(FakeTelemetry([seen(), seen("hw_thermal"), seen("power_cap"), seen()]))
    with Watch(GPU) as watch:
        assert [after(watch) for _ in range(4)] == [False, True, False, False]
    assert [block["void"] for block in watch.to_json()["blocks"]] == [False, True, False, False]


def test_a_block_keeps_the_most_power_and_heat_and_the_least_memory_clock(telemetry):
    telemetry(FakeTelemetry([seen(power=400.0, heat=61.0), seen(power=690.0, heat=60.0, memory=2619.0), seen()]))
    with Watch(GPU) as watch:
        after(watch, looks=3)
    assert watch.to_json()["blocks"] == [
        {"power_w": 690.0, "temperature_c": 61.0, "memory_clock_mhz": 2619.0, "throttle": [], "void": False}
    ]


def test_what_nvml_does_not_say_stays_null(telemetry):
    telemetry(FakeTelemetry([seen(power=None, heat=None, memory=None)], others=[None, None]))
    with Watch(GPU) as watch:
        assert after(watch) is False
    facts = json.loads(json.dumps(watch.to_json(), allow_nan=False))
    assert facts["other_processes"] is None
    assert facts["blocks"][0] == {
        "power_w": None, "temperature_c": None, "memory_clock_mhz": None, "throttle": [], "void": False
    }  # fmt: skip


def test_what_nvml_refuses_is_said(telemetry):
    fake = telemetry(FakeTelemetry())
    with Watch(GPU) as watch:
        pass
    assert "errors" not in watch.to_json()
    fake.errors["power_w"] = "NVML says Not Supported"
    assert watch.to_json()["errors"] == {"power_w": "NVML says Not Supported"}


@pytest.mark.parametrize(
    ("workers", "counts", "others"),
    [
        (1, (0, 0), 0),
        (1, (2, 0), 2),
        (1, (0, 3), 3),
        (3, (2, 2), 0),
        (3, (4, 2), 2),
        (3, (1, 0), 0),
        (1, (None, 2), 2),
        (2, (1, None), 0),
        (1, (None, None), None),
    ],
)
def test_strangers_are_counted_before_and_after_and_siblings_are_none(telemetry, workers, counts, others):
    fake = telemetry(FakeTelemetry(others=counts))
    with Watch(GPU, workers=workers) as watch:
        pass
    assert watch.to_json()["other_processes"] == others
    assert fake.asked == [[os.getpid()]] * 2
    assert fake.closed == 1


def test_what_was_seen_while_warming_up_is_forgotten(telemetry):
    telemetry(FakeTelemetry([seen("hw_thermal"), seen("hw_thermal"), seen("sw_thermal")]))
    with Watch(GPU) as watch:
        after(watch)
        watch.look()
        watch.begin()
        assert watch.end_block() is False, "a look of the warming up was taken for the block's"
        assert watch.to_json()["blocks"] == []
        assert after(watch) is True
    assert len(watch.to_json()["blocks"]) == 1
    assert "hw_thermal" not in watch.why_void()


def test_a_comparison_without_a_block_says_what_slowed_the_gpu_down(telemetry):
    telemetry(FakeTelemetry([seen("hw_thermal", "power_cap"), seen("power_brake"), seen("hw_thermal")]))
    with Watch(GPU) as watch:
        for _ in range(3):
            after(watch)
    assert watch.why_void() == "every block was void: the GPU slowed down (hw_thermal, power_brake)"


def test_missing_nvml_is_said_and_voids_nothing(telemetry):
    telemetry(TelemetryUnavailable("nvidia-ml-py is not installed"))
    with Watch(GPU, workers=2) as watch:
        assert watch.look() is None
        assert watch.end_block() is False
    assert watch.to_json() == {"telemetry": "unavailable: nvidia-ml-py is not installed"}


def test_a_cpu_has_no_telemetry():
    with Watch(CPU) as watch:
        assert watch.look() is None
    assert watch.to_json() == {"telemetry": "unavailable: the device is no GPU"}
