"""The parent's side: a worker that is lost costs its comparison and is started again."""

from __future__ import annotations

import os
import signal

import pytest

from w8a8_bench.comparison import LabelledShape
from w8a8_bench.formats import Format
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.settings import Settings, StopRule
from w8a8_bench.sweep.drive import SweepRefused, Team, Worker, refuse_too_large, run_sweep
from w8a8_bench.sweep.plan import make_plan

KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
QUICK = Settings(stop=StopRule(min_blocks=1, max_blocks=1))


def plan(*sizes: int):
    return make_plan([LabelledShape(GemmShape(m=s, n=s, k=s)) for s in sizes], KERNELS, (Format.INT8,))


def test_a_lost_worker_is_a_status_with_its_reason_and_the_sweep_goes_on():
    finished = []
    with Team("cpu") as team:
        team.first.hello()

        def progress(comparison, phase, what, done):
            if comparison.index == 0 and what == KERNELS[1]:
                os.kill(team.first.process_id, signal.SIGKILL)

        run_sweep(team, plan(16, 32), QUICK, progress=progress, finished=finished.append)
    first, second = finished
    # The cell in hand is the last one that the worker spoke of, which may be some way past the one it was killed for.
    by_status = {record.status: record for record in first.records}
    assert set(by_status) == {Status.SKIPPED, Status.CRASHED}
    assert all("SIGKILL" in record.reason for record in first.records)
    assert by_status[Status.CRASHED].kernel in by_status[Status.SKIPPED].reason
    assert [record.status for record in second.records] == [Status.OK, Status.OK]


def test_a_device_that_is_not_there_is_refused():
    with Worker("cuda:99") as worker, pytest.raises(SweepRefused, match="cuda:99"):
        worker.hello()


def test_what_does_not_fit_is_refused_with_both_sizes():
    with Worker("cpu") as worker:
        device, environment = worker.hello()
    assert environment["torch"]
    with pytest.raises(SweepRefused, match=r"needs about .* GiB and .* GiB free"):
        refuse_too_large(plan(46000), device, QUICK)
