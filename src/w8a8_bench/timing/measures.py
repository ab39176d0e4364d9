"""The measures (what is timed) by name, and the timers (how)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum


class Timer(Enum):
    """How launches are timed.

    graph  the period of launches in a replayed CUDA graph: the device's time, whatever the host does
    event  CUDA events around single launches after an L2 scrub: for what can't be captured in a graph
    host   the host's clock around a run of launches, caches warm: the original's way, and the only one on a CPU
    """

    GRAPH = "graph"
    EVENT = "event"
    HOST = "host"


TIME_COLD = "time_cold_l2"
TIME_HOT = "time_hot_l2"
TIME_EVENT = "time_event"
TIME_HOST = "time_host"
TIME_KERNEL = "time_kernel"
HOST_LAUNCH = "host_launch"

MEANINGS = {
    TIME_COLD: "period per launch in a CUDA graph, operands in DRAM",
    TIME_HOT: "period per launch in a CUDA graph, one operand set, L2 warm",
    TIME_EVENT: "CUDA events around a launch, L2 scrubbed before it; holds the gap between event and kernel",
    TIME_HOST: "the host's clock around a run of launches, caches warm",
    TIME_KERNEL: "the device's own duration of a lone launch's kernels, from the profiler, operands in DRAM",
    HOST_LAUNCH: "CPU time to enqueue one launch",
}
"""In order of precedence: the first that a record has is its headline."""

COLD_MEASURES = (TIME_COLD, TIME_EVENT, TIME_KERNEL)
"""Those whose launches find their operands in DRAM."""

_ON_REQUEST = {"cold": TIME_COLD, "hot": TIME_HOT, "kernel": TIME_KERNEL, "host": HOST_LAUNCH}
REQUESTS = tuple(_ON_REQUEST)
"""What `--measure` takes."""


def part(measure: str, which: str) -> str:
    """The measure of a part of the launch, `quant` or `gemm`, if activations are quantized inside the timed region."""
    return f"{measure}_{which}"


def headline(measures: Iterable[str]) -> str | None:
    """The measure that decides: it is shown first, and sampling ends when it is known well."""
    present = set(measures)
    return next((measure for measure in MEANINGS if measure in present), None)


def choose(timer: Timer | None, requests: Sequence[str] | None, *, cuda: bool) -> tuple[Timer, tuple[str, ...]]:
    """The timer and the measures for a device, from what was asked for; None is the default of each.

    Raises ValueError if the device or the timer has no such measure: nothing is replaced silently.
    """
    timer = timer or (Timer.GRAPH if cuda else Timer.HOST)
    if timer is not Timer.HOST and not cuda:
        raise ValueError(f"--timer {timer.value} needs a GPU: on a CPU the timer is host")
    for request in requests or ():
        if request not in _ON_REQUEST:
            raise ValueError(f"--measure {request!r}: expected {', '.join(_ON_REQUEST)}")
        if request == "kernel" and not cuda:
            raise ValueError("--measure kernel needs a GPU: it is the profiler's time of its kernels")
        if request == "host" and not cuda:
            raise ValueError("--measure host needs a GPU: on a CPU a launch is the work itself")
        if request in ("cold", "hot") and timer is Timer.HOST:
            raise ValueError(f"--measure {request} needs --timer graph: the host's clock sees warm caches only")
        if request == "hot" and timer is Timer.EVENT:
            raise ValueError("--measure hot needs --timer graph: --timer event scrubs the L2 before each launch")
    if timer is Timer.HOST:
        asked = dict.fromkeys([TIME_HOST, *(_ON_REQUEST[request] for request in requests or ())])
    else:
        cold = TIME_COLD if timer is Timer.GRAPH else TIME_EVENT
        asked = dict.fromkeys(cold if request == "cold" else _ON_REQUEST[request] for request in requests or ["cold"])
        if HOST_LAUNCH in asked and not {cold, TIME_HOT} & set(asked):
            asked[cold] = None  # the cost of enqueueing alone is no time of a kernel
    return timer, tuple(measure for measure in MEANINGS if measure in asked)
