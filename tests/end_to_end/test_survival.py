"""A sweep over kernels with every fault there is: it ends by itself, and what could be measured is measured."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from conftest import ROOT, environment

from w8a8_bench.bench.device_workers import DeviceWorkers
from w8a8_bench.bench.plan import make_plan
from w8a8_bench.bench.process import WorkerLimits
from w8a8_bench.bench.scheduler import run_sweep
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.results import json_lines
from w8a8_bench.timing.settings import Settings, StopRule

PLANTED = ROOT / "tests/planted"
sys.path.insert(0, str(PLANTED))

from planted import FAULTS, NAME  # noqa: E402

GOOD = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
SETTINGS = Settings(stop=StopRule(min_blocks=3, max_blocks=3))
LIMITS = WorkerLimits(step_s=6.0, host_bytes=3 << 28)


@pytest.fixture
def planted(monkeypatch):
    """Workers know the planted kernels, and are known by the mark that this gives."""
    mark = f"w8a8-bench-{uuid.uuid4()}"
    monkeypatch.setenv("PYTHONPATH", str(PLANTED), prepend=os.pathsep)
    monkeypatch.setenv("W8A8_MARK", mark)
    yield mark
    monkeypatch.delenv("W8A8_MARK")


def marked(mark: str) -> dict[int, str]:
    """Processes, by number, that were started with `mark` in their environment, and their command lines."""
    found = {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and mark.encode() in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
    return found


def none_is_left(mark: str) -> bool:
    """Whether all processes with `mark` end; a minute is far more than the system takes."""
    end = time.monotonic() + 60
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.05)
    return not marked(mark)


def sweep(names, sizes):
    shapes = [LabelledShape(GemmShape(m=size, n=64, k=64)) for size in sizes]
    comparisons = make_plan(shapes, names, (Format.INT8,))
    finished, said = [], []
    with DeviceWorkers("cpu", LIMITS) as workers:
        run_sweep(
            [workers],
            comparisons,
            SETTINGS,
            progress=lambda *what: None,
            finished=finished.append,
            said=said.append,
        )
    return finished, said


def test_every_fault_gets_its_status_and_good_kernels_their_samples(planted):
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
    assert "SIGSEGV in its first launch" in reasons["segfaults"]
    assert "SIGABRT" in reasons["aborts"] and "terminate called" in reasons["aborts"]
    assert reasons["hangs"].startswith("its first launch took over 6 s (--step-limit)")
    assert "GiB" in reasons["hogs"]
    assert "past its end" in reasons["overruns"]
    assert reasons["stale"].startswith("after timing")
    assert reasons["drifts"].startswith("after timing")
    assert reasons["spoils"].endswith("to what it is to read: b")
    assert (reasons["exits"], reasons["interrupts"]) == ("SystemExit: 0", "KeyboardInterrupt")
    assert "closed" in reasons["closes"]
    assert none_is_left(planted), "a process was left behind"


SIZES = ("square_bench", "--dim-start", "8", "--dim-end", "64", "--dim-increment", "8", "--rigor", "quick")
SHAPES = 8
KILLS = int(os.environ.get("KILLS", "5"))
"""How many sweeps are killed, all but one of them under `-m slow`. A hundred were, by hand; each takes some seconds."""


@pytest.mark.parametrize("trial", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, KILLS))])
def test_a_sweep_killed_at_a_random_moment_is_resumed_to_every_cell_once(tmp_path, trial):
    mark = f"w8a8-bench-{uuid.uuid4()}"
    words = ["--dtype", "int8", "--device", "cpu", *SIZES, "--kernels", *GOOD, "--out", "r.jsonl"]
    command = [sys.executable, "-m", "w8a8_bench", *words]
    env = {**environment(), "W8A8_MARK": mark}
    moments = random.Random(time.time_ns())

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *more], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    process = start()
    time.sleep(moments.uniform(0, 6))
    whom = moments.choice(["parent", "worker"])
    for number, line in marked(mark).items():
        if ("bench.worker" in line) == (whom == "worker"):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:  # it had just ended
                continue
    stderr = process.communicate(timeout=120)[1]
    assert "Traceback" not in stderr
    assert none_is_left(mark), f"a process outlived its {whom}: {marked(mark)}"
    resumed = start("--resume")
    assert "Traceback" not in (said := resumed.communicate(timeout=120)[1])
    assert resumed.returncode == 0, said
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    cells = [(line["comparison"], line["kernel"], line["status"]) for line in lines if line["kind"] == "cell"]
    assert cells == [(index, name, "ok") for index in range(SHAPES) for name in GOOD]
    assert json_lines.read(tmp_path / "r.jsonl").warnings == ()
    assert len(pickle.loads((tmp_path / "r.pkl").read_bytes())) == len(cells)
    assert none_is_left(mark), "a process was left behind"


@pytest.mark.parametrize(
    "how",
    [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGHUP))],
    ids=lambda number: number.name,
)
def test_a_kernel_that_hangs_does_not_hold_up_an_interruption(tmp_path, planted, how):
    env = {**environment(), "W8A8_MARK": planted}
    env["PYTHONPATH"] += f":{PLANTED}"
    words = ["--dtype", "int8", "--device", "cpu", *SIZES, "--kernels", GOOD[1], NAME.format("hangs")]
    process = subprocess.Popen(
        [sys.executable, "-m", "w8a8_bench", *words, "--out", "r.jsonl"],
        cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "r.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(1)  # by now the kernel hangs; earlier or later, the answer is the same
    process.send_signal(how)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert none_is_left(planted)


def test_what_a_kernel_started_ends_with_a_sweep_that_is_killed(planted, tmp_path):
    """A compiler, say: it is no child of the parent's, and its worker takes nothing along."""
    words = ["--dtype", "int8", "--device", "cpu", *SIZES, "--kernels", NAME.format("spawns"), "--out", "r.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-m", "w8a8_bench", *words],
        cwd=tmp_path,
        env={**environment(), "W8A8_MARK": planted, "PYTHONPATH": f"{ROOT / 'src'}:{PLANTED}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while not any(line.startswith("sleep") for line in marked(planted).values()) and time.monotonic() < end:
        time.sleep(0.02)
    assert any(line.startswith("sleep") for line in marked(planted).values()), "the kernel started nothing"
    process.kill()
    process.wait()
    assert none_is_left(planted), marked(planted)
