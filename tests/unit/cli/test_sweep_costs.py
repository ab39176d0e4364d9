"""The line that says where a sweep's time went."""

from __future__ import annotations

from w8a8_bench.bench.compile_ahead import Compiled
from w8a8_bench.cli.tables import costs
from w8a8_bench.problem import GemmShape
from w8a8_bench.results.record import ComparisonEnd


def end(*, timing: float, checking: float, preparing: float = 1.0, memory: int | None = None) -> ComparisonEnd:
    return ComparisonEnd(
        index=0,
        shape=GemmShape(m=1, n=1, k=1),
        labels={},
        seconds={"timing": timing, "resting": timing, "checking": checking, "preparing": preparing},
        blocks=6,
        cells=1,
        memory_bytes=memory,
    )


def test_what_is_left_over_is_of_all_devices_together():
    ends = [end(timing=15.0, checking=3.0, memory=1 << 30), end(timing=15.0, checking=4.0, memory=3 << 30)]
    alone, both = costs(75.0, 1, ends, Compiled()), costs(37.5, 2, ends, Compiled())
    parts = "preparing 2.0 s, checking 7.0 s, timing 30.0 s, resting 30.0 s, other 6.0 s; device memory 3.0 GiB at most"
    assert alone == f"took 75.0 s: {parts}"
    assert both == f"took 37.5 s on 2 devices: {parts}"


def test_what_was_compiled_ahead_is_preparing_in_which_all_devices_wait():
    line = costs(20.0, 2, [end(timing=5.0, checking=3.0)], Compiled(compiled=1, cached=7, seconds=4.0))
    assert line.startswith("took 20.0 s on 2 devices: preparing 9.0 s (1 kernel compiled, 7 cached), checking 3.0 s")
    assert line.endswith("other 18.0 s")


def test_a_cpu_has_no_device_memory_to_tell_of():
    assert costs(20.0, 1, [end(timing=5.0, checking=3.0)], Compiled()).endswith("other 6.0 s")
