"""Makes the method of timing that settings ask for. Each method is a file, imported when it is used."""

from __future__ import annotations

from w8a8_bench.environment.device import Device
from w8a8_bench.timing.measures import TIME_KERNEL, Timer
from w8a8_bench.timing.method import Method
from w8a8_bench.timing.settings import Settings


def make_method(device: Device, settings: Settings) -> Method:
    """A fresh method for one comparison, as `settings` say."""
    if settings.measures == (TIME_KERNEL,):
        from w8a8_bench.timing.profiler import ProfilerMethod

        return ProfilerMethod(device, settings.most_sets)
    if TIME_KERNEL in settings.measures:
        raise ValueError(f"{TIME_KERNEL} is taken alone: the profiler slows what is timed after it")
    if settings.timer is Timer.GRAPH:
        from w8a8_bench.timing.cuda_graph import GraphMethod

        return GraphMethod(device, settings.measures, settings.most_sets)
    if settings.timer is Timer.EVENT:
        from w8a8_bench.timing.cuda_events import EventMethod

        return EventMethod(device, settings.measures)
    from w8a8_bench.timing.host import HostMethod

    return HostMethod(device, settings.measures)
