"""The parent's side: what becomes of a comparison whose kernels cost their worker, and which kernels are left out."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from copies import replace
from made_devices import CPU, H200
from made_results import record

from w8a8_bench.bench import process
from w8a8_bench.bench.device_workers import DeviceWorkers, Finished
from w8a8_bench.bench.plan import make_plan
from w8a8_bench.bench.process import SweepRefused, Worker, WorkerLost
from w8a8_bench.bench.retry import FailureCounts, refuse_too_large, within_memory
from w8a8_bench.bench.scheduler import run_sweep
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import Comparison, LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.results.record import ComparisonEnd
from w8a8_bench.timing.measures import TIME_COLD, Timer
from w8a8_bench.timing.settings import Settings, StopRule

KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
THREE = (*KERNELS, "pytorch_i8_i8_bf16_scaled_mm_bias")
QUICK = Settings(stop=StopRule(min_blocks=1, max_blocks=1))


def plan(*sizes: int, kernels=KERNELS):
    return make_plan([LabelledShape(GemmShape(m=s, n=s, k=s)) for s in sizes], kernels, (Format.INT8,))


@dataclass
class FakeWorkers:
    """Measures nothing: `fate` says of a comparison's kernels which of them costs the worker, or gives the status."""

    fate: Callable[[Comparison, tuple[str, ...]], WorkerLost | Status | None]
    device: Device = CPU
    asked: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def run(self, comparison, settings, progress):
        names = tuple(cell.kernel for cell in comparison.cells)
        self.asked.append((comparison.index, names))
        fate = self.fate(comparison, names)
        if isinstance(fate, WorkerLost):
            raise fate
        records = [
            record(cell.kernel, 1e-3, comparison=comparison.index, shape=comparison.shape) for cell in comparison.cells
        ]
        if isinstance(fate, Status):
            records = [replace(one, status=fate, reason="planted", samples={}, blocks={}) for one in records]
        end = ComparisonEnd(
            index=comparison.index, shape=comparison.shape, labels={}, seconds={}, blocks=1, cells=len(records)
        )
        return Finished(comparison, tuple(records), end)


def swept(comparisons, *devices, before=()):
    finished, said = [], []
    run_sweep(
        devices,
        comparisons,
        QUICK,
        progress=lambda *what: None,
        finished=finished.append,
        said=said.append,
        before=before,
    )
    return finished, said


def statuses(result: Finished) -> list[Status]:
    assert result.end.cells == len(result.records)
    return [one.status for one in result.records]


def loses(name: str, status: Status = Status.CRASHED, when=lambda names: True):
    """The worker is lost in `name` wherever it is among the kernels."""

    def fate(comparison, names):
        return WorkerLost("gone", status=status, cell=names.index(name)) if name in names and when(names) else None

    return fate


@pytest.mark.parametrize("status", [Status.CRASHED, Status.TIMED_OUT, Status.OUT_OF_MEMORY])
def test_a_kernel_that_costs_its_worker_is_tried_alone_and_the_rest_is_measured_without_it(status):
    workers = FakeWorkers(loses(THREE[1], status))
    (result,), said = swept(plan(16, kernels=THREE), workers)
    assert [names for _, names in workers.asked] == [THREE, (THREE[1],), (THREE[0], THREE[2])]
    assert statuses(result) == [Status.OK, status, Status.OK]
    assert [one.kernel for one in result.records] == list(THREE)
    assert result.records[1].reason == "gone"
    assert result.end.machine["workers_lost"] == 2
    shape = result.comparison.shape
    assert said == [
        f"a worker was lost at {shape}, running {THREE[1]}: gone; it is tried once more alone",
        f"a worker was lost at {shape}, running {THREE[1]} again: gone; it is left out of this shape",
    ]


def test_a_kernel_that_survives_alone_is_measured_in_company_again():
    lost = iter([True])
    workers = FakeWorkers(loses(THREE[1], when=lambda names: next(lost, False)))
    (result,), _ = swept(plan(16, kernels=THREE), workers)
    assert [names for _, names in workers.asked] == [THREE, (THREE[1],), THREE]
    assert statuses(result) == [Status.OK] * 3


def test_a_kernel_that_survives_alone_only_is_left_out_at_its_second_loss():
    workers = FakeWorkers(loses(THREE[1], when=lambda names: len(names) > 1))
    (result,), _ = swept(plan(16, kernels=THREE), workers)
    assert [names for _, names in workers.asked] == [THREE, (THREE[1],), THREE, (THREE[0], THREE[2])]
    assert statuses(result) == [Status.OK, Status.CRASHED, Status.OK]


def test_the_only_kernel_is_tried_once_more():
    workers = FakeWorkers(loses(THREE[1]))
    (result,), said = swept(plan(16, kernels=THREE[1:2]), workers)
    assert len(workers.asked) == 2
    assert [line.partition("gone; ")[2] for line in said] == ["it is tried once more", "it is left out of this shape"]
    assert statuses(result) == [Status.CRASHED]


def test_a_worker_that_is_lost_twice_without_a_kernel_stops_the_comparison_and_not_the_sweep():
    def fate(comparison, names):
        return WorkerLost("no kernel ran", status=Status.OUT_OF_MEMORY) if comparison.index == 0 else None

    workers = FakeWorkers(fate)
    (first, second), said = swept(plan(16, 32), workers)
    assert [line.partition("ran; ")[2] for line in said] == ["another goes on", "the shape is left out"]
    assert statuses(first) == [Status.OUT_OF_MEMORY] * 2
    assert statuses(second) == [Status.OK] * 2
    assert [index for index, _ in workers.asked] == [0, 0, 1]


def test_a_kernel_that_fails_on_three_comparisons_running_is_left_out_and_that_is_said():
    workers = FakeWorkers(loses(KERNELS[1]))
    results, said = swept(plan(16, 24, 32, 40, 48), workers)
    assert [statuses(result)[1] for result in results] == [Status.CRASHED] * 3 + [Status.SKIPPED] * 2
    assert all(statuses(result)[0] is Status.OK for result in results)
    assert "3 comparisons running" in results[3].records[1].reason
    assert "gone" in results[3].records[1].reason
    assert sum("left out, since" in line for line in said) == 1
    assert workers.asked[-2:] == [(3, KERNELS[:1]), (4, KERNELS[:1])]


def test_a_kernel_that_recovers_is_not_left_out():
    fates = {0: Status.FAILED, 1: Status.FAILED, 2: None, 3: Status.INCORRECT, 4: Status.FAILED}
    workers = FakeWorkers(lambda comparison, names: fates[comparison.index])
    results, said = swept(plan(16, 24, 32, 40, 48), workers)
    assert all(Status.SKIPPED not in statuses(result) for result in results)
    assert said == []


@pytest.mark.parametrize("status", [Status.UNSUPPORTED, Status.OUT_OF_MEMORY, Status.SKIPPED, Status.UNCAPTURABLE])
def test_a_kernel_that_refuses_or_finds_no_room_is_not_left_out(status):
    workers = FakeWorkers(lambda comparison, names: status)
    results, _ = swept(plan(16, 24, 32, 40, 48), workers)
    assert [statuses(result) for result in results] == [[status] * 2] * 5


def test_failures_before_an_interruption_count():
    failed = record(KERNELS[1], 1e-3, shape=GemmShape(m=8, n=8, k=8))
    failed = replace(failed, status=Status.CRASHED, reason="gone", samples={}, blocks={})
    workers = FakeWorkers(lambda comparison, names: None)
    (result,), _ = swept(plan(16), workers, before=[failed] * 3)
    assert statuses(result) == [Status.OK, Status.SKIPPED]


def test_schemes_of_a_kernel_are_left_out_apart():
    failures = FailureCounts()
    one = record(KERNELS[1], 1e-3)
    other = replace(one, problem=replace(one.problem, activations=type(one.problem.activations).DYNAMIC))
    for _ in range(3):
        failures.note([replace(one, status=Status.FAILED, reason="no")])
    from w8a8_bench.problem.comparison import Cell

    assert failures.why_left_out(Cell(one.kernel, one.problem))
    assert failures.why_left_out(Cell(other.kernel, other.problem)) is None


def test_devices_share_comparisons_out_and_each_is_run_once():
    devices = [FakeWorkers(lambda comparison, names: None, replace(CPU, uuid=f"GPU-{n}")) for n in range(3)]
    results, _ = swept(plan(*range(16, 80, 8)), *devices)
    assert sorted(result.comparison.index for result in results) == list(range(8))
    assert sorted(index for workers in devices for index, _ in workers.asked) == list(range(8))
    by_device = {workers.device.uuid: {index for index, _ in workers.asked} for workers in devices}
    for result in results:
        for one in result.records:
            assert result.comparison.index in by_device[one.device], "a record names another device"


def test_the_plan_alone_decides_which_device_measures_what_and_after_what_until_one_is_done():
    """So that two sweeps of one plan can be compared. The second half was done before, as where it is gone on with."""
    turn = threading.Barrier(2)
    devices = [FakeWorkers(lambda comparison, names: turn.wait(10) and None) for _ in range(2)]
    swept(plan(*range(16, 80, 8))[2:], *devices)
    assert [[index for index, _ in workers.asked] for workers in devices] == [[2, 4, 6], [3, 5, 7]]


def test_a_device_that_is_done_takes_the_last_of_the_share_of_another():
    done = threading.Event()

    def slow(comparison, names):
        done.wait(10)

    def fast(comparison, names):
        if comparison.index == 2:
            done.set()

    first, second = FakeWorkers(slow), FakeWorkers(fast)
    swept(plan(*range(16, 64, 8)), first, second)
    assert [index for index, _ in first.asked] == [0]
    assert [index for index, _ in second.asked] == [1, 3, 5, 4, 2]


def test_a_device_that_is_gone_leaves_its_comparison_to_the_others():
    def gone(comparison, names):
        raise SweepRefused("no such device any more")

    results, said = swept(plan(16, 24, 32), FakeWorkers(gone), FakeWorkers(lambda comparison, names: None))
    assert sorted(result.comparison.index for result in results) == [0, 1, 2]
    assert any("no such device" in line for line in said)


def test_the_last_device_that_is_gone_ends_the_sweep():
    def gone(comparison, names):
        raise SweepRefused("no such device any more")

    with pytest.raises(SweepRefused, match="no such device"):
        swept(plan(16, 24), FakeWorkers(gone))


def test_what_finished_raises_reaches_the_caller():
    def full(result):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_sweep(
            [FakeWorkers(lambda comparison, names: None)],
            plan(16),
            QUICK,
            progress=lambda *what: None,
            finished=full,
        )


def test_a_comparison_that_does_not_fit_is_recorded_and_its_neighbours_are_run():
    small = replace(CPU, available_bytes=1 << 28)
    workers = FakeWorkers(lambda comparison, names: None, small)
    (first, second), _ = swept(plan(16384, 16), workers)
    assert statuses(first) == [Status.OUT_OF_MEMORY] * 2
    assert "GiB free" in first.records[0].reason
    assert statuses(second) == [Status.OK] * 2


def test_a_gpu_with_little_room_gets_smaller_rotations():
    cold = replace(QUICK, timer=Timer.GRAPH, measures=(TIME_COLD,))
    (comparison,) = plan(1024)
    gpu = replace(H200, l2_bytes=60 << 20)
    assert within_memory(comparison, gpu, cold) == cold
    fitted = within_memory(comparison, replace(gpu, available_bytes=700 << 20), cold)
    assert isinstance(fitted, Settings)
    assert fitted == replace(cold, most_sets=fitted.most_sets)
    assert fitted.most_sets < cold.most_sets
    assert "GiB free" in str(within_memory(comparison, replace(gpu, available_bytes=1 << 20), cold))


def test_a_sweep_in_which_nothing_fits_is_refused_with_both_sizes():
    with pytest.raises(SweepRefused, match=r"needs about .* GiB and .* GiB free"):
        refuse_too_large(plan(46000), CPU, QUICK)
    refuse_too_large(plan(46000, 16), CPU, QUICK)


def test_a_killed_worker_is_started_again_and_what_it_ran_is_measured():
    """With real processes: the kill hits while kernels run, and once more is enough."""
    finished = []
    killed = []
    with DeviceWorkers("cpu") as workers:
        assert workers.device.kind == "cpu"

        def watch(comparison, phase, what, done):
            if comparison.index == 0 and what == KERNELS[1] and not killed:
                killed.append(workers.first._process.pid)
                os.kill(workers.first._process.pid, signal.SIGKILL)

        run_sweep([workers], plan(16, 32), QUICK, progress=watch, finished=finished.append)
        assert workers.first._process.pid not in killed
    assert [statuses(result) for result in finished] == [[Status.OK] * 2] * 2
    assert finished[0].end.machine["workers_lost"] >= 1
    assert {one.device for result in finished for one in result.records} == {"cpu"}


def test_a_device_that_is_not_there_is_refused():
    with Worker("cuda:99") as worker, pytest.raises(SweepRefused, match="cuda:99"):
        worker.hello()


def test_a_worker_that_does_not_start_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(process, "STARTUP_S", 0.05)
    monkeypatch.setattr(process, "LOOK_S", 0.02)
    with Worker("cpu") as worker, pytest.raises(WorkerLost, match="did not start"):
        worker.hello()


def test_a_signal_that_does_not_end_a_wait_is_served_within_it():
    """One that arrives just before the main thread waits; made here by one that is delivered to another thread."""

    class Broken(Exception):
        pass

    def breaks(number, frame):
        raise Broken

    def fate(comparison, names):
        time.sleep(0.05)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        time.sleep(30)

    before, started = signal.signal(signal.SIGUSR1, breaks), time.monotonic()
    try:
        with pytest.raises(Broken):
            swept(plan(8), FakeWorkers(fate))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - started < 10


def test_shapes_of_a_shard_are_shared_out_among_all_devices():
    comparisons = plan(*range(8, 72, 8))[1::2]
    both = threading.Barrier(2, timeout=60)

    def beside_the_other(comparison, names):
        both.wait()

    devices = [FakeWorkers(beside_the_other) for _ in range(2)]
    run_sweep(devices, comparisons, QUICK, progress=lambda *what: None, finished=lambda result: None, every=2)
    assert [[index for index, _ in one.asked] for one in devices] == [[1, 5], [3, 7]]
