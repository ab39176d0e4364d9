"""`time_kernel`: the device's own duration of a launch's kernels, as CUPTI reports it, operands in DRAM.

A replay is

    [scrub] -> probe -> spin -> launch -> spin -> launch -> ... -> probe

The spins keep the launches apart. In a row of launches a kernel's first blocks begin while its predecessor's last are
still at work, which is then in the durations of both; after a spin of one thread it begins on an idle GPU, as under
Nsight Compute, which `scripts/compare_with_ncu.py` holds against it. Kernels, copies and fills of the launch are
summed; gaps between them are not in it. Once CUPTI has been in a process, its graphs run up to 3% slower, so that this
measure is taken in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.problem.memory import MAX_SETS
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing import rotation
from w8a8_bench.timing.cuda_graph import GraphTimer, Turns
from w8a8_bench.timing.measures import TIME_KERNEL
from w8a8_bench.timing.method import Bind, Sample, TimedCell, size_like

OWN_KERNELS = ("read_clocks", "read_all", "spin_apart", "forget_apart")
"""The instrument's, which are not the launch's."""

APART_S = 5e-6
"""Length of a spin: longer than the last blocks of a kernel take, and too short for the clock to rise in."""

REPLAY_S = 1e-3
"""Length of a profiled replay: short, since each kernel in it becomes an event to read."""


class KernelSampler:
    """A graph of launches kept apart, profiled."""

    def __init__(
        self, timer: GraphTimer, launches: Sequence[Launch], plan: rotation.RotationPlan, size: int | None = None
    ) -> None:
        self._timer = timer
        self._turns = Turns(launches)  # held: a graph knows addresses only
        self.size = size or plan.launches(APART_S + timer.period(launches, plan), REPLAY_S)
        self.launches = self.size
        self.graph = timer.capture(timer.kept_apart(self._turns, self.size, APART_S, plan.scrub))

    def sample(self) -> Sample:
        from torch._C._autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            self._timer.replay(self.graph)
        results = profiler.profiler.kineto_results if profiler.profiler else None
        on_device = [
            event
            for event in (results.events() if results else ())
            if event.device_type() == DeviceType.CUDA and event.name() not in OWN_KERNELS
        ]
        if not on_device:
            raise RuntimeError("the profiler saw no kernel: CUPTI may be in use by another tool, or not permitted")
        total = 1e-9 * sum(event.duration_ns() for event in on_device)
        return Sample(total / self.launches, self._timer.busy_clock_mhz(total))

    def rerun(self) -> Sequence[object]:
        """Replay the graph; gives what each launch returned, whose memory was written anew."""
        self._timer.replay(self.graph)
        return self._turns.outputs


class ProfilerMethod:
    """Times the cells of one comparison by profiled graphs."""

    def __init__(
        self, device: Device, most_sets: int = MAX_SETS, reserved: rotation.ReservedMemory | None = None
    ) -> None:
        self._device, self._most_sets = device, most_sets
        self._timer = GraphTimer(device)
        self._arena = rotation.Arena(reserved)

    def ready(self, bind: Bind, operands: Operands, *, like: TimedCell | None = None) -> TimedCell:
        l2_bytes, most = self._device.l2_bytes, self._most_sets
        plan = rotation.plan_of(operands, l2_bytes, most)
        with self._timer.on_stream():
            sets, bound, rows = rotation.cold_rows(TIME_KERNEL, bind, operands, plan, self._arena, l2_bytes, most)
        samplers = {
            measure: KernelSampler(self._timer, launches, of, size_like(like, measure))
            for measure, (launches, of) in rows.items()
        }
        whole = samplers[TIME_KERNEL]
        described = {"sets": plan.sets, "bytes": plan.set_bytes, "scrubbed": int(plan.scrub)}
        return TimedCell(samplers, sets[: whole.size], bound[: whole.size], whole.rerun, described)
