"""The ways of timing on the GPU of this machine: cold and hot, what can't be captured, clocks, rotations, the profiler.

Only what holds with a wide margin on any GPU is asserted of times; how well they repeat is for `doctor --timing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.analysis import metrics  # noqa: E402
from w8a8_bench.bench.comparison_run import run_comparison  # noqa: E402
from w8a8_bench.bench.device_workers import DeviceWorkers  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.environment.device import Device  # noqa: E402
from w8a8_bench.kernel import Launches, Status  # noqa: E402
from w8a8_bench.problem import GemmShape  # noqa: E402
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape  # noqa: E402
from w8a8_bench.problem.formats import Format  # noqa: E402
from w8a8_bench.problem.kernel_name import BASELINE, KernelName  # noqa: E402
from w8a8_bench.problem.memory import L2_TIMES, MAX_SETS  # noqa: E402
from w8a8_bench.providers import registry  # noqa: E402
from w8a8_bench.results.record import ComparisonEnd, Record  # noqa: E402
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_COLD, TIME_EVENT, TIME_HOT, TIME_KERNEL, Timer  # noqa: E402
from w8a8_bench.timing.settings import Settings, StopRule  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]

BF16, FP8 = BASELINE, "pytorch_fp8_fp8_bf16_scaled_mm"
FP8_FAST = "pytorch_fp8_fp8_bf16_scaled_mm_fast_accum"
FP8_BLOCKWISE = "pytorch_fp8_fp8_bf16_scaled_mm_blockwise"
SHAPE = GemmShape(m=16, n=4096, k=4096)
TINY = GemmShape(m=64, n=64, k=64)
BLOCKS = 8


@pytest.fixture(scope="module")
def device() -> Device:
    found = detect.resolve_device("cuda")
    if found.capability is None or found.capability < (8, 9):
        pytest.skip(f"{found.name} has no FP8")
    return found


def comparison(*names: str, shape: GemmShape = SHAPE) -> Comparison:
    parsed = [KernelName.parse(name) for name in names]
    cells = [Cell(p.text, p.problem(shape, Format.FP8, p.default_scheme)) for p in parsed]
    return Comparison(0, LabelledShape(shape), tuple(cells))


def settings(*measures: str, timer: Timer = Timer.GRAPH, seed: int = 0) -> Settings:
    return Settings(seed=seed, stop=StopRule(BLOCKS, BLOCKS), timer=timer, measures=measures)


def run(
    device: Device, names: Sequence[str], how: Settings, *, shape: GemmShape = SHAPE, planted: Sequence[Planted] = ()
) -> tuple[dict[str, Record], ComparisonEnd]:
    kernels = {name: registry.get(name) for name in names} | {kernel.name: kernel for kernel in planted}
    records, end = run_comparison(comparison(*names, shape=shape), device, how, kernels=kernels.__getitem__)
    return {record.kernel: record for record in records}, end


@dataclass
class Planted:
    """A good kernel with a fault of its own: `synchronizes`, or `stale`, which goes on with the first timed set."""

    name: str
    synchronizes: bool = False
    stale: bool = False
    bound: list[Launches] = field(default_factory=list)

    def supports(self, problem, device):
        return registry.get(self.name).supports(problem, device)

    def prepare(self, problem, device):
        inner, outer = registry.get(self.name).prepare(problem, device), self

        class Prepared:
            config = inner.config

            def bind(self, operands):
                good = inner.bind(operands).total
                out = operands.out

                def launch() -> None:
                    good()
                    if outer.synchronizes:
                        out[0, 0].item()

                outer.bound.append(Launches(launch))
                # The check binds first, on operands of its own; what follows are the sets of the rotation.
                return outer.bound[min(1, len(outer.bound) - 1)] if outer.stale else outer.bound[-1]

        return Prepared()


@dataclass
class Converting:
    """A good kernel that copies weights and scales when it is bound, and afterwards reads the copies alone.

    A `scribbling` one does so to no purpose: it fills memory of the same sizes, which must not be a neighbour's.
    """

    name: str
    scribbling: bool = False

    def supports(self, problem, device):
        return registry.get(self.name).supports(problem, device)

    def prepare(self, problem, device):
        inner, scribbling = registry.get(self.name).prepare(problem, device), self.scribbling

        class Prepared:
            config = inner.config

            def bind(self, operands):
                copies = {name: getattr(operands, name).clone() for name in ("b", "scale_a", "scale_b")}
                if not scribbling:
                    return inner.bind(replace(operands, **copies))
                for copy in copies.values():
                    copy.view(torch.uint8).fill_(0x55)
                launch = inner.bind(operands).total
                return Launches(lambda: (launch(), copies)[0])

        return Prepared()


def middle(record: Record, measure: str) -> float:
    assert record.status is Status.OK, f"{record.kernel}: {record.status.value}: {record.reason}"
    return median(record.samples[measure])


def assert_clocks(record: Record, measure: str) -> None:
    clocks = record.clock_mhz[measure]
    assert len(clocks) == len(record.samples[measure]) > 0
    assert all(100 < clock < 3000 for clock in clocks), clocks


def test_operands_in_the_l2_are_faster_than_operands_in_dram(device):
    records, end = run(device, (BF16, FP8), settings(TIME_COLD, TIME_HOT))
    for record in records.values():
        cold, hot = middle(record, TIME_COLD), middle(record, TIME_HOT)
        assert 1.2 * hot <= cold, f"{record.kernel}: hot {hot:.3e} s, cold {cold:.3e} s"
        for measure in (TIME_COLD, TIME_HOT):
            assert len(record.samples[measure]) == BLOCKS
            assert record.launches_per_sample[measure] >= 4
            assert_clocks(record, measure)
        sets = record.rotation["sets"]
        assert sets >= 2
        assert sets * record.rotation["bytes"] >= L2_TIMES * device.l2_bytes
        assert record.rotation["scrubbed"] == 0
    assert end.duplicate["kernel"] == BF16
    assert len(end.duplicate_samples(TIME_COLD)[0]) == BLOCKS
    assert metrics.noise_floor(end, records.values(), TIME_COLD) is not None
    assert end.memory_bytes > 0


def test_a_launch_that_synchronizes_is_uncapturable_and_its_neighbours_are_timed(device):
    planted = Planted(FP8, synchronizes=True)
    records, _ = run(device, (BF16, FP8, FP8_FAST), settings(TIME_COLD, TIME_HOT), planted=[planted])
    assert records[FP8].status is Status.UNCAPTURABLE, f"{records[FP8].status.value}: {records[FP8].reason}"
    assert "--timer event" in records[FP8].reason
    assert records[FP8].samples == {}
    for name in (BF16, FP8_FAST):  # one was captured before the spoilt capture, the other after it
        assert middle(records[name], TIME_COLD) > 0
        assert middle(records[name], TIME_HOT) > 0


def test_a_spoilt_capture_leaves_the_next_comparison_of_the_process_as_it_was(device):
    run(device, (FP8,), settings(TIME_COLD), planted=[Planted(FP8, synchronizes=True)])
    records, _ = run(device, (BF16, FP8), settings(TIME_COLD))
    for record in records.values():
        assert middle(record, TIME_COLD) > 0
    values = torch.ones(1 << 20, device=device.torch_name)
    assert float(values.sum()) == 1 << 20


def test_what_no_graph_can_hold_is_timed_by_events(device):
    planted = Planted(FP8, synchronizes=True)
    how = settings(TIME_EVENT, timer=Timer.EVENT)
    records, _ = run(device, (BF16, FP8), how, planted=[planted])
    for record in records.values():
        assert set(record.samples) == {TIME_EVENT}
        assert 1e-6 < middle(record, TIME_EVENT) < 1e-3
        assert record.rotation["scrubbed"] == 1
        assert_clocks(record, TIME_EVENT)


def test_the_profilers_time_is_most_of_the_period_and_no_more_than_it(device):
    how = settings(TIME_COLD, TIME_KERNEL)
    assert how.passes()[1].measures == (TIME_KERNEL,)
    with DeviceWorkers("cuda") as workers:  # in processes of their own: CUPTI slows what is timed after it
        workers.first.hello()
        finished = workers.run(comparison(BF16, FP8), how, lambda *what: None)
    for record in finished.records:
        period, kernel = middle(record, TIME_COLD), middle(record, TIME_KERNEL)
        # In a row of launches one begins while the last ends, which is in both durations and once in the period.
        assert 0.5 * period <= kernel <= 1.1 * period, f"{record.kernel}: kernel {kernel:.3e} s, period {period:.3e} s"
        assert_clocks(record, TIME_COLD)
        assert_clocks(record, TIME_KERNEL)


def test_every_set_of_a_rotation_holds_an_answer_that_the_check_accepts(device):
    for seed in range(3):  # each judges another set
        records, _ = run(device, (BF16, FP8, FP8_FAST), settings(TIME_COLD, seed=seed))
        for record in records.values():
            assert middle(record, TIME_COLD) > 0
            assert record.rotation["sets"] > 2


@pytest.mark.parametrize("size", [256, 512, 16384])
def test_a_kernel_that_converts_operands_when_it_is_bound_finds_them_there(device, size):
    """Copies into the rotation must be done before `bind` reads them, on whatever stream."""
    shape = GemmShape(m=min(size, 128), n=size, k=size)
    records, _ = run(device, (BF16, FP8_BLOCKWISE), settings(TIME_COLD), shape=shape)
    if records[FP8_BLOCKWISE].status is Status.UNSUPPORTED:
        pytest.skip(records[FP8_BLOCKWISE].reason)
    assert middle(records[FP8_BLOCKWISE], TIME_COLD) > 0


def test_what_bind_made_lives_as_long_as_the_graph_that_reads_it(device):
    planted = [Converting(FP8), Converting(FP8_FAST, scribbling=True)]
    records, _ = run(device, (BF16, FP8, FP8_FAST), settings(TIME_COLD, TIME_HOT), planted=planted)
    for record in records.values():
        assert middle(record, TIME_COLD) > 0


def test_a_launch_bound_to_another_set_is_incorrect(device):
    records = [
        run(device, (BF16, FP8), settings(TIME_COLD, seed=seed), planted=[Planted(FP8, stale=True)])[0]
        for seed in range(3)
    ]
    found = [one[FP8] for one in records if one[FP8].status is Status.INCORRECT]
    # The set that is judged is drawn by seed, and may once be the very one that is written.
    assert len(found) >= 2, [f"{one[FP8].status.value}: {one[FP8].reason}" for one in records]
    assert all(record.reason.startswith("after timing, on another A: ") and record.samples == {} for record in found)
    assert all(one[BF16].status is Status.OK for one in records), "a neighbour was taken for the fault"


@pytest.mark.parametrize("timer", [Timer.GRAPH, Timer.EVENT])
def test_enqueueing_a_launch_takes_some_time_and_less_than_a_millisecond(device, timer):
    headline = TIME_COLD if timer is Timer.GRAPH else TIME_EVENT
    records, _ = run(device, (BF16, FP8), settings(headline, HOST_LAUNCH, timer=timer))
    for record in records.values():
        assert 0 < middle(record, HOST_LAUNCH) < 1e-3
        assert len(record.samples[HOST_LAUNCH]) == BLOCKS
        assert HOST_LAUNCH not in record.clock_mhz


def test_a_shape_too_small_to_leave_the_l2_is_scrubbed(device):
    records, _ = run(device, (BF16, FP8), settings(TIME_COLD, TIME_HOT), shape=TINY)
    for record in records.values():
        assert record.status is Status.OK, record.reason
        assert record.rotation["scrubbed"] == 1
        assert record.rotation["sets"] == MAX_SETS
        assert record.rotation["sets"] * record.rotation["bytes"] < L2_TIMES * device.l2_bytes
        assert 4 <= record.launches_per_sample[TIME_COLD] <= MAX_SETS, "no set is touched twice"
        assert middle(record, TIME_HOT) < middle(record, TIME_COLD)
        assert_clocks(record, TIME_COLD)
