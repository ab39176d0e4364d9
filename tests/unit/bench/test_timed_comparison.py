"""One comparison with made-up ways of timing: the duplicate, what can't be timed, and times that can't be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MethodType

import msgspec
import pytest
import torch
from copies import replace

from w8a8_bench.analysis import metrics
from w8a8_bench.bench import comparison_run, time_cells
from w8a8_bench.bench.comparison_run import run_comparison
from w8a8_bench.correctness.quantize import quantize_activations
from w8a8_bench.environment import detect
from w8a8_bench.environment.telemetry import Snapshot
from w8a8_bench.kernel import Codes, Launches, Status, Support
from w8a8_bench.problem import PER_TENSOR, Activations, GemmShape
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.providers import registry
from w8a8_bench.results.record import to_json
from w8a8_bench.timing.measures import TIME_COLD, TIME_HOT, Timer
from w8a8_bench.timing.method import Sample, TimedCell, Uncapturable
from w8a8_bench.timing.rotation import Arena, NotCold
from w8a8_bench.timing.settings import Settings, StopRule

BASE, GOOD, OTHER = BASELINE, "pytorch_i8_i8_bf16_scaled_mm", "pytorch_i8_i8_bf16_scaled_mm_bias"
SHAPE = GemmShape(m=17, n=48, k=40)
CPU = detect.resolve_device("cpu")
H200 = replace(CPU, capability=(9, 0), sm_count=132, max_sm_clock_mhz=1980.0, memory_bandwidth=4.9e12)
"""A CPU with the figures of an H200, so that floors are known where kernels run."""
BLOCKS = 8
SETTINGS = Settings(stop=StopRule(BLOCKS, BLOCKS), timer=Timer.GRAPH, measures=(TIME_COLD,))


def comparison(*names: str) -> Comparison:
    cells = [Cell(name, KernelName.parse(name).problem(SHAPE, Format.INT8, PER_TENSOR)) for name in names]
    return Comparison(0, LabelledShape(SHAPE), tuple(cells))


@dataclass
class FakeSampler:
    """Gives what `next_sample` says; notes whose turn it was."""

    who: str
    log: list[str]
    next_sample: Callable[[], Sample]
    launches: int = 4

    def sample(self) -> Sample:
        self.log.append(self.who)
        return self.next_sample()


@dataclass
class FakeMethod:
    """Times nothing: every sample of a kernel is what `seconds` says of its name, 1 ms where it says nothing.

    `refuse` is raised when a kernel of that name is made ready. The timed launches go through `sets` copies.
    """

    seconds: dict[str, Callable[[], Sample]] = field(default_factory=dict)
    refuse: dict[str, Exception] = field(default_factory=dict)
    sets: int = 1
    log: list[str] = field(default_factory=list)
    likes: list[TimedCell | None] = field(default_factory=list)
    arena: Arena = field(default_factory=Arena)

    def ready(self, bind, operands, *, like=None) -> TimedCell:
        name = bind.args[0].name  # of what is prepared: `bind` is the runner's, which sees the inputs first
        if name in self.refuse:
            raise self.refuse[name]
        self.likes.append(like)
        sets = self.arena.sets(operands, self.sets)
        bound = [bind(one) for one in sets]

        def rerun() -> list[object]:
            return [launches.total() for launches in bound]

        who = name + (" again" if like else "")
        take = self.seconds.get(who) or self.seconds.get(name) or (lambda: Sample(1e-3, 1900.0))
        rotation = {"sets": self.sets, "bytes": 4096, "scrubbed": 0}
        return TimedCell({TIME_COLD: FakeSampler(who, self.log, take)}, sets, bound, rerun, rotation)


@dataclass
class Named:
    """A good kernel whose prepared form knows its name; `spoil` gets operands and the number of the launch, which
    returns what it gives."""

    name: str
    spoil: Callable[[object, int], None] = lambda operands, calls: None

    def supports(self, problem, device):
        return registry.get(self.name).supports(problem, CPU)

    def prepare(self, problem, device):
        inner, spoil, calls = registry.get(self.name).prepare(problem, CPU), self.spoil, itertools.count(1)

        class Prepared:
            name = self.name
            config: dict[str, object] = {}  # noqa: RUF012

            def bind(self, operands):
                good = inner.bind(operands).total

                def launch():
                    good()
                    return spoil(operands, next(calls))

                return Launches(launch)

        return Prepared()


@pytest.fixture
def run(monkeypatch):
    """Records by kernel and the end of a comparison of `names`, timed by `method`."""

    def go(method: FakeMethod, *names: str, device=CPU, settings=SETTINGS, spoilt=()):
        monkeypatch.setattr(time_cells, "make_method", lambda device, settings, reserved: method)
        kernels = {name: Named(name) for name in names} | {kernel.name: kernel for kernel in spoilt}
        records, end = run_comparison(comparison(*names), device, settings, kernels=kernels.__getitem__)
        for one in (*records, end):
            back = msgspec.convert(json.loads(json.dumps(to_json(one), allow_nan=False)), type(one))
            assert to_json(back) == to_json(one), "a result is lost on its way to the parent"
        return {record.kernel: record for record in records}, end

    return go


def drifting(factor: float = 1.0) -> Callable[[], Sample]:
    """Times that drift by a tenth a sample."""
    steps: Iterator[int] = itertools.count(1)
    return lambda: Sample(factor * 1e-3 * 1.1 ** next(steps), 1980.0)


def test_the_baselines_duplicate_is_taken_in_every_block_and_is_no_record(run):
    method = FakeMethod()
    records, end = run(method, GOOD, BASE)
    assert list(records) == [GOOD, BASE]
    blocks = [method.log[start : start + 3] for start in range(0, len(method.log), 3)]
    assert len(blocks) == BLOCKS
    assert all(sorted(block) == sorted([GOOD, BASE, BASE + " again"]) for block in blocks)
    assert len({tuple(block) for block in blocks}) > 2, "the duplicate stands at one place"
    assert end.duplicate["kernel"] == BASE
    assert end.cells == 2
    samples, numbers = end.duplicate_samples(TIME_COLD)
    assert (len(samples), numbers) == (BLOCKS, tuple(range(BLOCKS)))


def test_the_duplicate_is_made_like_its_original(run):
    method = FakeMethod()
    run(method, BASE)
    original, duplicate = method.likes
    assert original is None
    assert isinstance(duplicate, TimedCell)


def test_the_noise_floor_is_of_the_duplicates_blocks(run):
    records, end = run(FakeMethod({BASE: drifting(), BASE + " again": drifting(1.02)}), GOOD, BASE)
    floor = metrics.noise_floor(end, records.values(), TIME_COLD)
    assert floor.median == pytest.approx(1.02)
    assert floor.interval == pytest.approx((1.02, 1.02)), "pairs were not of one block"


def test_without_the_baseline_the_first_that_is_left_is_duplicated(run):
    method = FakeMethod(refuse={GOOD: Uncapturable("no")})
    records, end = run(method, GOOD, OTHER)
    assert records[GOOD].status is Status.UNCAPTURABLE
    assert end.duplicate["kernel"] == OTHER


def test_what_no_graph_can_hold_says_what_can_and_its_neighbours_are_timed(run):
    says = "AcceleratorError: CUDA error: operation not permitted when stream is capturing"
    records, _ = run(FakeMethod(refuse={GOOD: Uncapturable(says)}), BASE, GOOD, OTHER)
    assert records[GOOD].status is Status.UNCAPTURABLE
    assert records[GOOD].reason.startswith(says)
    assert "--timer event" in records[GOOD].reason
    assert records[GOOD].samples == {}
    for name in (BASE, OTHER):
        assert records[name].status is Status.OK, records[name].reason
        assert len(records[name].samples[TIME_COLD]) == BLOCKS


def test_what_turns_out_uncapturable_while_it_is_timed_does_not_shorten_its_neighbours(run):
    def fails() -> Sample:
        raise Uncapturable("the profiler saw no kernel")

    records, _ = run(FakeMethod({GOOD: fails}), BASE, GOOD)
    assert records[GOOD].status is Status.UNCAPTURABLE
    assert records[BASE].status is Status.OK
    assert len(records[BASE].samples[TIME_COLD]) == BLOCKS


def test_a_rotation_that_would_not_be_cold_is_unsupported(run):
    says = "the size of this GPU's L2 is unknown"
    records, _ = run(FakeMethod(refuse={GOOD: NotCold(says)}), BASE, GOOD)
    assert (records[GOOD].status, records[GOOD].reason) == (Status.UNSUPPORTED, says)
    assert records[BASE].status is Status.OK


def test_a_method_that_can_not_be_made_is_every_cells_status(run, monkeypatch):
    def refuse(device, settings, reserved):
        raise NotCold("unknown L2")

    monkeypatch.setattr(time_cells, "make_method", refuse)
    kernels = {name: Named(name) for name in (BASE, GOOD)}
    records, end = run_comparison(comparison(BASE, GOOD), CPU, SETTINGS, kernels=kernels.__getitem__)
    assert [record.status for record in records] == [Status.UNSUPPORTED] * 2
    assert (end.blocks, end.duplicate) == (0, {})


def test_a_record_says_how_it_was_timed(run):
    records, end = run(FakeMethod(sets=3), BASE)
    one = records[BASE]
    assert one.rotation == {"sets": 3, "bytes": 4096, "scrubbed": 0}
    assert one.launches_per_sample == {TIME_COLD: 4}
    assert one.blocks == {TIME_COLD: tuple(range(BLOCKS))}
    assert one.clock_mhz == {TIME_COLD: (1900.0,) * BLOCKS}
    assert end.machine["voided_blocks"] == 0
    assert end.memory_bytes is None
    assert set(end.seconds) == {"preparing", "checking", "timing", "resting", "other"}


def test_a_clock_that_was_not_always_read_is_left_out(run):
    turns = itertools.count()
    records, _ = run(FakeMethod({BASE: lambda: Sample(1e-3, 1900.0 if next(turns) else None)}), BASE)
    assert records[BASE].clock_mhz == {}


FLOOR_S = 2 * 17 * 48 * 40 / (8192 * 132 * 1980e6)


@pytest.mark.parametrize(("seconds", "status"), [(0.5 * FLOOR_S, Status.IMPLAUSIBLE), (1e-3, Status.OK)])
def test_a_time_below_the_floor_is_implausible_and_keeps_its_samples(run, seconds, status):
    records, _ = run(FakeMethod({GOOD: lambda: Sample(seconds, 1980.0)}), BASE, GOOD, device=H200)
    assert records[GOOD].status is status
    assert records[GOOD].samples == {TIME_COLD: (seconds,) * BLOCKS}
    assert records[GOOD].clock_mhz == {TIME_COLD: (1980.0,) * BLOCKS}
    assert bool(records[GOOD].reason) is (status is Status.IMPLAUSIBLE)
    assert records[BASE].status is Status.OK


def test_bytes_that_come_from_the_l2_have_no_floor(run):
    hot = replace(SETTINGS, measures=(TIME_HOT,))
    nearly = 1.5 * FLOOR_S  # above the operations' floor and far below that of the bytes

    def method():
        made = FakeMethod({GOOD: lambda: Sample(nearly, 1980.0)})
        inner = made.ready

        def ready(bind, operands, *, like=None):
            timed = inner(bind, operands, like=like)
            return replace(timed, samplers={hot.headline: timed.samplers[TIME_COLD]})

        made.ready = ready
        return made

    assert run(method(), GOOD, device=H200, settings=hot)[0][GOOD].status is Status.OK
    cold = FakeMethod({GOOD: lambda: Sample(nearly, 1980.0)})
    assert run(cold, GOOD, device=H200)[0][GOOD].status is Status.IMPLAUSIBLE


def test_an_answer_that_goes_wrong_once_it_is_timed_is_incorrect(run):
    bad = Named(GOOD, lambda operands, calls: operands.out.zero_() if calls > 1 else None)
    records, _ = run(FakeMethod(), BASE, GOOD, spoilt=[bad])
    assert records[GOOD].status is Status.INCORRECT
    assert records[GOOD].reason.startswith("after timing, on another A: ")
    assert records[GOOD].samples == {}
    assert records[BASE].status is Status.OK


def test_a_launch_that_leaves_its_set_unwritten_is_incorrect(run):
    bad = Named(GOOD)
    real = bad.prepare

    def prepare(problem, device):
        made = real(problem, device)
        bind, bound = made.bind, []

        def stale(prepared, operands):
            bound.append(bind(operands))
            return bound[min(1, len(bound) - 1)]  # the check has the first; whatever follows, the first timed set

        made.bind = MethodType(stale, made)
        return made

    bad.prepare = prepare
    records, _ = run(FakeMethod(sets=64), GOOD, spoilt=[bad])
    assert records[GOOD].status is Status.INCORRECT, "the set that was judged was by chance the one that was written"


def test_right_answers_in_every_set_of_a_rotation_are_ok(run):
    records, _ = run(FakeMethod(sets=5), BASE, GOOD, OTHER)
    assert {record.status for record in records.values()} == {Status.OK}


def test_a_returned_output_is_judged_in_every_set_of_a_rotation(run):
    def moved(operands, calls):
        d = operands.out.clone()
        operands.out.fill_(float("nan"))
        return d

    for seed in range(5):
        settings = replace(SETTINGS, seed=seed)
        records, _ = run(FakeMethod(sets=5), BASE, GOOD, settings=settings, spoilt=[Named(GOOD, moved)])
        assert (records[GOOD].status, records[GOOD].config) == (Status.OK, {"output": "returned"})


def test_a_kernel_that_returns_one_buffer_for_all_sets_is_incorrect_whichever_is_judged(run):
    """It holds the answer of the last set; and it stays in the cache, which others' outputs leave."""
    buffer = torch.empty(SHAPE.m, SHAPE.n, dtype=torch.bfloat16)
    shared = Named(GOOD, lambda operands, calls: buffer.copy_(operands.out))
    for seed in range(5):
        records, _ = run(FakeMethod(sets=2), BASE, GOOD, settings=replace(SETTINGS, seed=seed), spoilt=[shared])
        assert records[GOOD].status is Status.INCORRECT
        assert "the same memory for several operand sets" in records[GOOD].reason


def test_an_unsettled_cell_is_flagged_by_its_headline(run):
    loose = replace(SETTINGS, stop=StopRule(BLOCKS, BLOCKS, target=0.01))
    records, _ = run(FakeMethod({GOOD: drifting()}), BASE, GOOD, settings=loose)
    assert records[GOOD].flags == ("unsettled",)
    assert records[BASE].flags == ()


class FakeWatch:
    """Sees what `throttle` says at every look; of the blocks the first `voids` are void."""

    throttle: tuple[str, ...] = ()
    voids = 0

    def __init__(self, device, *, workers=1):
        self.workers, self._void = workers, self.voids

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def begin(self):
        pass

    def look(self):
        return Snapshot(
            power_w=700.0, temperature_c=60.0, sm_clock_mhz=1500.0, memory_clock_mhz=3201.0, throttle=self.throttle
        )

    def end_block(self):
        self._void -= 1
        return self._void >= 0

    def why_void(self):
        return "every block was void: the GPU slowed down (hw_thermal)"

    def to_json(self):
        return {"telemetry": "NVML"}


@pytest.fixture
def watched(monkeypatch):
    def use(**facts):
        monkeypatch.setattr(comparison_run, "Watch", type("Seen", (FakeWatch,), facts))

    return use


def test_a_power_cap_is_flagged_and_nothing_is_lost(run, watched):
    watched(throttle=("power_cap",))
    records, _ = run(FakeMethod(), BASE)
    assert (records[BASE].status, records[BASE].flags) == (Status.OK, ("power_capped",))
    assert len(records[BASE].samples[TIME_COLD]) == BLOCKS


def test_void_blocks_are_taken_again_and_counted(run, watched):
    watched(voids=3)
    records, end = run(FakeMethod(), BASE)
    assert len(records[BASE].samples[TIME_COLD]) == BLOCKS
    assert (end.blocks, end.machine["voided_blocks"]) == (BLOCKS, 3)


def test_a_comparison_of_void_blocks_alone_is_skipped_with_the_reason(run, watched):
    watched(voids=10**6)
    records, end = run(FakeMethod(), BASE, GOOD)
    for record in records.values():
        assert (record.status, record.samples) == (Status.SKIPPED, {})
        assert "hw_thermal" in record.reason
    assert (end.blocks, end.duplicate) == (0, {})


def test_a_kernel_that_runs_out_of_memory_for_its_rotation_leaves_its_neighbours(run):
    records, _ = run(FakeMethod(refuse={GOOD: torch.OutOfMemoryError("CUDA out of memory")}), BASE, GOOD)
    assert records[GOOD].status is Status.OUT_OF_MEMORY
    assert records[BASE].status is Status.OK


def test_a_duplicate_without_room_does_not_cost_its_original(run):
    method = FakeMethod()
    inner = method.ready

    def ready(bind, operands, *, like=None):
        if like is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(bind, operands)

    method.ready = ready
    records, end = run(method, BASE, GOOD)
    assert records[BASE].status is Status.OK
    assert end.duplicate == {}


@dataclass
class WithCodes:
    """Quantizes to the reference's codes, into memory that is the set's own or shared by all sets."""

    shared: bool
    name: str = GOOD

    def supports(self, problem, device):
        return Support.yes()

    def prepare(self, problem, device):
        outer, kept = self, list[Codes]()

        class Prepared:
            name = self.name
            config: dict[str, object] = {}  # noqa: RUF012

            def bind(self, operands):
                made = quantize_activations(operands.a, problem)
                codes = kept[0] if outer.shared and kept else Codes(made.q, made.scale)
                kept.append(codes)

                def quant():
                    fresh = quantize_activations(operands.a, problem)
                    codes.q.copy_(fresh.q)
                    codes.scale.copy_(fresh.scale)

                def gemm():
                    product = codes.q.double() @ operands.b.double()
                    operands.out.copy_(product * codes.scale * operands.scale_b)

                return Launches(lambda: (quant(), gemm())[0], quant, gemm, codes)

        return Prepared()


@pytest.mark.parametrize(
    ("shared", "status", "says"),
    [
        (False, Status.OK, ""),
        (True, Status.INCORRECT, "the codes of several operand sets lie in the same memory: allocate them in bind"),
    ],
)
def test_codes_are_judged_in_a_set_of_the_rotation_and_each_set_has_its_own(monkeypatch, shared, status, says):
    monkeypatch.setattr(time_cells, "make_method", lambda device, settings, reserved: FakeMethod(sets=3))
    problem = KernelName.parse(GOOD).problem(SHAPE, Format.INT8, PER_TENSOR, Activations.DYNAMIC)
    one = Comparison(0, LabelledShape(SHAPE), (Cell(GOOD, problem),))
    (record,), _ = run_comparison(one, CPU, SETTINGS, kernels=lambda name: WithCodes(shared))
    assert (record.status, record.reason) == (status, says)
