"""`time_cold_l2` and `time_hot_l2`: the period per launch in a replayed CUDA graph.

A replay is

    [scrub] -> probe -> jolt -> launch -> launch -> ... -> launch -> jolt -> launch -> ... -> launch -> probe
                                  |                          |                 |                |
                                event                      event             event            event

Events are nodes of the graph, so that neither the host nor the graph's own launch is in the time. They hang off the
chain on a branch of their own: in the chain an event delays what follows it, by 1 us at the start and 2 at the end
(H200), while on the branch both come equally late. The first launch of a segment leads in and is not in the time. The
probes read every multiprocessor's cycle counter and the global timer, which gives the SM clock of this replay alone.

Jolts are kernels whose blocks end in random order. A row of equal launches falls into one of a few patterns, and then
keeps it through any number of launches and replays: a GEMM that fills two thirds of an H200 took 37.5, 39.3 or 40.0 us,
whatever its data and addresses, as the kernels before it had left the multiprocessors. Each segment begins in another
pattern, so that a sample is a mean over several.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.problem.memory import L2_TIMES, MAX_SETS, MIN_LAUNCHES
from w8a8_bench.problem.operands import Operands
from w8a8_bench.text import in_one_line
from w8a8_bench.timing import device_code, rotation
from w8a8_bench.timing.host import LaunchSampler
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_COLD, TIME_HOT
from w8a8_bench.timing.method import Bind, Sample, Sampler, TimedCell, Uncapturable, parts, size_like

REPLAY_S = 3e-3
"""Length of a replay. On an H200 medians of 2 ms and of 5 ms repeat equally well, and the shorter ones cost less."""

SEGMENTS = 16
SEGMENT_LAUNCHES = 5
"""Segments of a replay: no more than `SEGMENTS`, none shorter than `SEGMENT_LAUNCHES`."""

PILOT_LAUNCHES = 32
"""Launches of the graph that tells how long one takes."""


Segment = tuple[torch.cuda.Event, torch.cuda.Event]
"""Where it begins, after its lead-in, and where it ends."""


class Turns:
    """Runs launches in turn. `outputs` holds what each of them returned last.

    A graph writes to the addresses of the tensors that were returned while it was captured. So they are held as long as
    the graph is, one for each launch: outputs then rotate as those do that a launch writes to its operand set.
    """

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = launches
        self.outputs: list[object] = [None] * len(launches)

    def launch(self, number: int) -> None:
        place = number % len(self._launches)
        self.outputs[place] = None  # first, so that its memory is there for the next output of the same set
        self.outputs[place] = self._launches[place]()


class GraphTimer:
    """Captures and times graphs on one GPU."""

    def __init__(self, device: Device) -> None:
        self._device = torch.device(device.torch_name)
        self.code = device_code.load(device)
        self.stream = torch.cuda.Stream(self._device)
        self._branch = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._slots = torch.zeros(2, device_code.SM_SLOTS, 2, dtype=torch.int64, device=self._device)
        self._apart = torch.zeros(2, dtype=torch.int64, device=self._device)
        self._scrubbed: torch.Tensor | None = None
        self._scrub_bytes = L2_TIMES * (device.l2_bytes or 0)
        # A pool lives as long as one of its graphs, and pilots go before the next graph comes.
        self._kept = [self.capture(lambda: self.code.read_clocks(self._slots[0]))]

    def capture(self, body: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """What `body` enqueues, as a graph. Raises Uncapturable if something in it can't be captured."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        with torch.cuda.stream(self.stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                body()
            except BaseException as error:
                self._end_spoilt(graph)
                if isinstance(error, Exception):
                    raise Uncapturable(in_one_line(error)) from error
                raise
            try:
                graph.capture_end()
            except RuntimeError as error:
                self._let_go_of_pool(graph)
                raise Uncapturable(in_one_line(error)) from error
        return graph

    def _end_spoilt(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except RuntimeError:  # says less than the error that spoilt the capture, which is what is reported
            self._let_go_of_pool(graph)

    def _let_go_of_pool(self, graph: torch.cuda.CUDAGraph) -> None:
        """After a capture that could not be ended, PyTorch's allocator goes on filling its pool: take another."""
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
        self._kept.append(graph)
        self._pool = torch.cuda.graph_pool_handle()
        self._kept.append(self.capture(lambda: self.code.read_clocks(self._slots[0])))

    def replay(self, graph: torch.cuda.CUDAGraph) -> float:
        """Run a graph to its end, and say when that was (`perf_counter`)."""
        with torch.cuda.stream(self.stream):
            graph.replay()
        self.stream.synchronize()
        return time.perf_counter()

    def sampler(
        self, launches: Sequence[Launch], size: int, *, scrub: bool = False, segments: int | None = None
    ) -> GraphSampler:
        """A sampler of `size` launches, lead-ins included, taken from `launches` in turn, an L2 scrub before them."""
        return GraphSampler(self, launches, size, scrub=scrub, segments=segments or segments_of(size))

    def period(self, launches: Sequence[Launch], plan: rotation.RotationPlan) -> float:
        """About how long one of `launches` takes, in seconds."""
        size = min(max(len(launches), MIN_LAUNCHES), PILOT_LAUNCHES)
        pilot = self.sampler(launches, size, scrub=plan.scrub)
        pilot.sample()
        return pilot.sample().seconds

    def timed_body(self, turns: Turns, size: int, segments: Sequence[Segment], scrub: bool) -> Callable[[], None]:
        """What a replay enqueues. All launches, lead-ins too, go through the sets in one row."""

        def row() -> None:
            for number, (begin, end) in enumerate(segments):
                self.code.jolt()
                first, last = (size * edge // len(segments) for edge in (number, number + 1))
                for index in range(first, last):
                    turns.launch(index)
                    if index == first:
                        self._mark(begin)
                self._mark(end)
            self.stream.wait_stream(self._branch)

        return self._between_probes(row, scrub)

    def kept_apart(self, turns: Turns, size: int, apart_s: float, scrub: bool) -> Callable[[], None]:
        """What a replay enqueues if each launch is to begin on an idle GPU."""

        def row() -> None:
            self.code.forget_apart(self._apart)
            for index in range(size):
                self.code.spin_apart(round(1e9 * apart_s), self._apart)
                turns.launch(index)

        return self._between_probes(row, scrub)

    def _between_probes(self, row: Callable[[], None], scrub: bool) -> Callable[[], None]:
        if scrub and self._scrubbed is None:
            self._scrubbed = torch.zeros(self._scrub_bytes, dtype=torch.uint8, device=self._device)

        def body() -> None:
            if scrub and self._scrubbed is not None:
                self.code.read_all(self._scrubbed)
            self.code.read_clocks(self._slots[0])
            row()
            self.code.read_clocks(self._slots[1])

        return body

    def _mark(self, event: torch.cuda.Event) -> None:
        """Record `event` once all that was captured so far is done, and have nothing wait for it."""
        self._branch.wait_stream(self.stream)
        event.record(self._branch)

    def clock_mhz(self) -> float | None:
        """SM clock between the two probes of the last replay."""
        before, after = self._slots.cpu()
        return device_code.clock_mhz(before, after)

    def busy_clock_mhz(self, busy_s: float) -> float | None:
        """SM clock of launches that were `kept_apart` in the last replay and took `busy_s` in all."""
        before, after = self._slots.cpu()
        return device_code.busy_clock_mhz(before, after, self._apart.cpu(), busy_s)

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Run eager launches on the stream that is captured, after what was enqueued before, and wait for them."""
        self.stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self.stream):
            yield
        self.stream.synchronize()


class GraphSampler:
    """One graph of timed launches."""

    def __init__(self, timer: GraphTimer, launches: Sequence[Launch], size: int, *, scrub: bool, segments: int) -> None:
        self._timer = timer
        self._turns = Turns(launches)  # held: a graph knows addresses only, and what `bind` made is the launches' own
        self._segments = [(_event(), _event()) for _ in range(segments)]
        self.size, self.launches = size, size - len(self._segments)
        self.graph = timer.capture(timer.timed_body(self._turns, size, self._segments, scrub))

    def sample(self) -> Sample:
        ended = self._timer.replay(self.graph)
        seconds = sum(1e-3 * begin.elapsed_time(end) for begin, end in self._segments)
        return Sample(seconds / self.launches, self._timer.clock_mhz(), ended)

    def rerun(self) -> Sequence[object]:
        """Replay the graph; gives what each launch returned, whose memory was written anew."""
        self._timer.replay(self.graph)
        return self._turns.outputs


def segments_of(size: int) -> int:
    """Segments of a replay of `size` launches."""
    return min(max(size // SEGMENT_LAUNCHES, 1), SEGMENTS)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True, external=True)


class GraphMethod:
    """Times the cells of one comparison by graph: cold, hot, and the cost of enqueueing, as `measures` ask."""

    def __init__(
        self,
        device: Device,
        measures: Sequence[str],
        most_sets: int = MAX_SETS,
        reserved: rotation.ReservedMemory | None = None,
    ) -> None:
        self._device, self._measures, self._most_sets = device, measures, most_sets
        self.timer = GraphTimer(device)
        self.arena = rotation.Arena(reserved)

    def period(self, bind: Bind, operands: Operands) -> float:
        """About how long a cold launch takes, in seconds: a short graph, for what is only screened."""
        l2_bytes, most = self._device.l2_bytes, self._most_sets
        plan = rotation.plan_of(operands, l2_bytes, most)
        with self.timer.on_stream():
            _, _, rows = rotation.cold_rows(TIME_COLD, bind, operands, plan, self.arena, l2_bytes, most)
        row = rows[TIME_COLD]
        return self.timer.period(row.launches, row.plan)

    def ready(self, bind: Bind, operands: Operands, *, like: TimedCell | None = None) -> TimedCell:
        l2_bytes, most = self._device.l2_bytes, self._most_sets
        plan = rotation.plan_of(operands, l2_bytes, most)
        if TIME_COLD not in self._measures:
            plan = replace(plan, sets=1, scrub=False)
        with self.timer.on_stream():
            sets, bound, rows = rotation.cold_rows(TIME_COLD, bind, operands, plan, self.arena, l2_bytes, most)
        samplers: dict[str, Sampler] = {}
        if TIME_COLD in self._measures:
            for measure, row in rows.items():
                size = size_like(like, measure) or row.plan.launches(
                    self.timer.period(row.launches, row.plan), REPLAY_S
                )
                samplers[measure] = self.timer.sampler(row.launches, size, scrub=row.plan.scrub)
        if TIME_HOT in self._measures:
            one = rotation.RotationPlan(1, plan.set_bytes, scrub=False)
            for measure, launches in parts(TIME_HOT, bound[:1]).items():
                size = size_like(like, measure) or one.launches(self.timer.period(launches, one), REPLAY_S)
                samplers[measure] = self.timer.sampler(launches, size)
        first = next(iter(samplers.values()))
        assert isinstance(first, GraphSampler)
        if HOST_LAUNCH in self._measures:
            samplers[HOST_LAUNCH] = LaunchSampler(self._device, bound[0].total)
        described = {"sets": len(sets), "bytes": plan.set_bytes, "scrubbed": int(plan.scrub)} if len(sets) > 1 else {}
        return TimedCell(samplers, sets[: first.size], bound[: first.size], first.rerun, described)
