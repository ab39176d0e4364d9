"""A sweep over kernels with every fault there is: it ends by itself, and what could be measured is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT

from w8a8_bench.comparison import LabelledShape
from w8a8_bench.formats import Format
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.settings import Settings, StopRule
from w8a8_bench.sweep.drive import Team, run_sweep
from w8a8_bench.sweep.plan import make_plan
from w8a8_bench.sweep.process import Limits

PLANTED = ROOT / "tests/planted"
sys.path.insert(0, str(PLANTED))

from planted import FAULTS, NAME  # noqa: E402

GOOD = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
SETTINGS = Settings(stop=StopRule(min_blocks=3, max_blocks=3))
LIMITS = Limits(step_s=4.0, host_bytes=3 << 29)


@pytest.fixture
def planted(monkeypatch):
    """Workers know the planted kernels."""
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))


def children() -> set[str]:
    """Processes that run this package's worker."""
    found = set()
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and b"w8a8_bench.sweep.worker" in (path / "cmdline").read_bytes():
                found.add(path.name)
        except OSError:  # it has ended meanwhile
            continue
    return found


def sweep(names, sizes):
    shapes = [LabelledShape(GemmShape(m=size, n=64, k=64)) for size in sizes]
    comparisons = make_plan(shapes, names, (Format.INT8,))
    finished, said = [], []
    with Team("cpu", LIMITS) as team:
        run_sweep(
            [team],
            comparisons,
            SETTINGS,
            progress=lambda *what: None,
            finished=finished.append,
            said=said.append,
        )
    return finished, said


def test_every_fault_gets_its_status_and_good_kernels_their_samples(planted):
    before = children()
    names = (GOOD[0], *(NAME.format(fault) for fault in FAULTS), GOOD[1])
    (result,), _ = sweep(names, [32])
    assert [record.kernel for record in result.records] == list(names)
    assert result.end.cells == len(names)
    got = {record.provider: record.status.value for record in result.records if record.kernel not in GOOD}
    assert got == FAULTS
    for record in result.records:
        if record.status is not Status.OK:
            assert record.reason, record.kernel
        elif record.kernel in GOOD:
            assert len(record.samples["time_host"]) == 3
    reasons = {record.provider: record.reason for record in result.records}
    assert "SIGSEGV" in reasons["segfaults"]
    assert "SIGABRT" in reasons["aborts"] and "terminate called" in reasons["aborts"]
    assert "4 s" in reasons["hangs"]
    assert "GiB" in reasons["hogs"]
    assert "past its end" in reasons["overruns"]
    assert reasons["stale"].startswith("after timing")
    assert reasons["drifts"].startswith("after timing")
    assert "forked" in reasons["forks"]
    assert "closed" in reasons["closes"]
    assert children() == before, "a process was left behind"
