"""Devices that tests ask about, without one being there."""

from __future__ import annotations

from w8a8_bench.environment.device import Device

H200 = Device(
    kind="cuda",
    index=0,
    name="H200",
    torch=(2, 13),
    memory_bytes=1 << 37,
    available_bytes=1 << 37,
    capability=(9, 0),
    sm_count=132,
    max_sm_clock_mhz=1980.0,
    memory_bandwidth=4.917e12,
)
CPU = Device(kind="cpu", index=0, name="CPU", torch=(2, 13), memory_bytes=1 << 34, available_bytes=1 << 34)
