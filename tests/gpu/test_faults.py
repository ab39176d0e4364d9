"""Faults that only a GPU can have, through real workers: each gets its status, and the good kernels are measured."""

from __future__ import annotations

import os
import sys

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")

from w8a8_bench.bench.device_workers import DeviceWorkers  # noqa: E402
from w8a8_bench.bench.plan import make_plan  # noqa: E402
from w8a8_bench.bench.process import WorkerLimits  # noqa: E402
from w8a8_bench.bench.scheduler import run_sweep  # noqa: E402
from w8a8_bench.kernel import Status  # noqa: E402
from w8a8_bench.problem import GemmShape  # noqa: E402
from w8a8_bench.problem.comparison import LabelledShape  # noqa: E402
from w8a8_bench.problem.formats import Format  # noqa: E402
from w8a8_bench.timing.measures import TIME_COLD, Timer  # noqa: E402
from w8a8_bench.timing.settings import Settings, StopRule  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

PLANTED = ROOT / "tests/planted"
sys.path.insert(0, str(PLANTED))

from planted import CUDA_FAULTS, FAULTS, NAME  # noqa: E402

GOOD = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
SETTINGS = Settings(stop=StopRule(min_blocks=3, max_blocks=3), timer=Timer.GRAPH, measures=(TIME_COLD,))
EVERY = {**FAULTS, **CUDA_FAULTS}


def test_every_fault_gets_its_status_and_good_kernels_their_samples(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PLANTED), prepend=os.pathsep)
    names = (GOOD[0], *(NAME.format(fault) for fault in EVERY), GOOD[1])
    shape = LabelledShape(GemmShape(m=512, n=1024, k=1024))
    finished = []
    with DeviceWorkers("cuda", WorkerLimits(step_s=15.0, host_bytes=12 << 30)) as workers:
        run_sweep(
            [workers],
            make_plan([shape], names, (Format.INT8,)),
            SETTINGS,
            progress=lambda *what: None,
            finished=finished.append,
        )
    (result,) = finished
    got = {record.provider: record.status.value for record in result.records if record.kernel not in GOOD}
    reasons = {record.provider: record.reason for record in result.records}
    assert got == EVERY, reasons
    for record in result.records:
        if record.kernel in GOOD:
            assert record.status is Status.OK, record.reason
            assert len(record.samples[TIME_COLD]) == 3
    assert "illegal" in reasons["strays"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_measure_the_same_cells_as_one():
    shapes = [LabelledShape(GemmShape(m=m, n=1024, k=1024)) for m in (32, 64, 128, 256)]
    comparisons = make_plan(shapes, GOOD, (Format.INT8,))
    by_count = {}
    for count in (1, 2):
        finished = []
        devices = [DeviceWorkers(f"cuda:{index}") for index in range(count)]
        try:
            run_sweep(devices, comparisons, SETTINGS, progress=lambda *what: None, finished=finished.append)
        finally:
            for workers in devices:
                workers.__exit__()
        by_count[count] = {(r.comparison, r.kernel): r.status for result in finished for r in result.records}
        devices = {record.device for result in finished for record in result.records}
        assert len(devices) == count
        assert all(len({record.device for record in result.records}) == 1 for result in finished)
    assert by_count[1] == by_count[2]
