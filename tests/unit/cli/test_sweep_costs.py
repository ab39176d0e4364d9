"""The line that says where a sweep's time went."""

from __future__ import annotations

from w8a8_bench.cli.tables import costs
from w8a8_bench.problem import GemmShape
from w8a8_bench.results.record import ComparisonEnd


def end(*, timing: float, check: float, setup: float, memory: int | None = None) -> ComparisonEnd:
    return ComparisonEnd(
        index=0,
        shape=GemmShape(m=1, n=1, k=1),
        labels={},
        seconds={"timing": timing, "check": check, "setup": setup},
        blocks=6,
        cells=1,
        memory_bytes=memory,
    )


def test_what_is_left_over_is_of_all_devices_together():
    ends = [
        end(timing=30.0, check=3.0, setup=2.0, memory=1 << 30),
        end(timing=30.0, check=4.0, setup=1.0, memory=3 << 30),
    ]
    alone, both = costs(75.0, 1, ends), costs(37.5, 2, ends)
    parts = "timing 60.0 s, check 7.0 s, setup 3.0 s, other 5.0 s (20% not timing); device memory 3.0 GiB at most"
    assert alone == f"took 75.0 s: {parts}"
    assert both == f"took 37.5 s on 2 devices: {parts}"


def test_a_cpu_has_no_device_memory_to_tell_of():
    assert costs(10.0, 1, [end(timing=5.0, check=3.0, setup=1.0)]).endswith("other 1.0 s (50% not timing)")
