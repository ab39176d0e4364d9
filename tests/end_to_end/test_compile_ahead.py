"""Compiling before the measuring, with a provider whose compiler is a file on disk and has every fault."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
KERNELS = tuple(f"acme_i8_i8_{out}_scaled_mm{bias}" for out in ("bf16", "fp16") for bias in ("", "_bias"))
SQUARE = ("square_bench", "--dim-start", "32", "--dim-end", "64", "--dim-increment", "32")

PROVIDER = """
import os, pathlib, time
import torch
from w8a8_bench.kernel import CompileError, Launches, PreparedKernel, Probe, Support

KERNELS = {kernels!r}
HERE = pathlib.Path(os.environ["ACME"])
FAULT = os.environ.get("ACME_FAULT", "")


def probe():
    return Probe.found(os.environ.get("ACME_VERSION", "1.0"))


class Kernel:
    def __init__(self, name):
        self.name, self.is_first = name, name == KERNELS[0]

    def supports(self, problem, device):
        return Support.yes()

    def build_key(self, problem, device):
        if self.is_first and FAULT == "dies when asked":
            os._exit(9)
        if self.is_first and FAULT == "no text":
            return 7
        return f"{{self.name}} {{problem.shape}}"

    def prepare(self, problem, device):
        made = HERE / f"{{self.name}} {{problem.shape}}"
        if not made.exists():
            if self.is_first and FAULT == "dies":
                if "once" not in os.listdir(HERE):
                    (HERE / "once").touch()
                    os._exit(9)
            if self.is_first and FAULT == "hangs":
                time.sleep(600)
            if self.is_first and FAULT == "does not compile":
                raise CompileError("line 1: no such register")
            with open(HERE / "log", "a") as log:
                log.write(f"{{self.name}} {{problem.shape}} {{os.getpid()}}\\n")
            made.touch()

        def bind(operands):
            a, b, out = operands.a, operands.b, operands.out
            scale = operands.scale_a * operands.scale_b
            bias = 0 if operands.bias is None else operands.bias
            return Launches(lambda: out.copy_(torch._int_mm(a, b) * scale + bias))

        return PreparedKernel(bind, {{"tile": 1}})


def kernel(name):
    return Kernel(name)
"""


@pytest.fixture
def sweep(tmp_path):
    """Runs a sweep of both shapes with the kernels of `acme`; gives what came of it."""
    (tmp_path / "acme.py").write_text(PROVIDER.format(kernels=KERNELS))
    (tmp_path / "compiled").mkdir()
    numbers = iter(range(100))

    def run(*words, kernels=KERNELS, cache=tmp_path / "cache", started=False, **variables):
        out = f"r{next(numbers)}.jsonl"
        command = [sys.executable, "-m", "w8a8_bench", "--dtype", "int8", "--device", "cpu", "--rigor", "quick"]
        command += ["--no-report", "--out", out, *words, "--kernels", BASELINE, *kernels, *SQUARE]
        own = {"ACME": str(tmp_path / "compiled"), "W8A8_BENCH_PROVIDERS": "acme.py", "W8A8_BENCH_CACHE": str(cache)}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment(), **own, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if started:
            return process
        said = "".join(process.communicate(timeout=240))
        lines = [json.loads(line) for line in (tmp_path / out).read_text().splitlines()]
        cells = [line for line in lines if line["kind"] == "cell"]
        assert len(cells) == 2 * (1 + len(kernels)), said
        ends = [line for line in lines if line["kind"] == "comparison"]
        return {"code": process.returncode, "ends": ends}, cells, said

    return run


def log(tmp_path: Path) -> list[list[str]]:
    """What was compiled, in which process."""
    path = tmp_path / "compiled" / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_what_is_missing_is_compiled_before_the_first_block_and_only_once(sweep, tmp_path):
    result, cells, said = sweep()
    assert result["code"] == 0, said
    assert {cell["status"] for cell in cells} == {"ok"}
    compiled = log(tmp_path)
    assert len(compiled) == 2 * len(KERNELS) == len({tuple(line[:-1]) for line in compiled})
    assert "compiling 8 kernels" in said and "(8 kernels compiled, 0 cached)" in said
    first, second = (end["seconds"] for end in result["ends"])
    assert first["compiling_ahead"] > 0 and "compiling_ahead" not in second
    assert {"preparing", "checking", "timing", "resting", "other"} == set(second)
    result, cells, said = sweep()
    assert result["code"] == 0 and len(log(tmp_path)) == 2 * len(KERNELS)
    assert "compiling" not in said.replace("compiling_ahead", "") and "(0 kernels compiled, 8 cached)" in said


@pytest.mark.slow
def test_a_cache_of_another_version_is_not_used(sweep):
    sweep()
    _, _, said = sweep(ACME_VERSION="2.0")
    assert "(8 kernels compiled, 0 cached)" in said


@pytest.mark.slow
def test_a_kernel_that_does_not_compile_loses_its_own_cells_alone(sweep):
    result, cells, said = sweep(ACME_FAULT="does not compile")
    assert result["code"] == 3
    broken = {(cell["kernel"], cell["status"], cell["reason"]) for cell in cells if cell["status"] != "ok"}
    reason = "CompileError: line 1: no such register (acme.py, line 39)"
    assert broken == {(KERNELS[0], "compile_error", reason)}, said


@pytest.mark.slow
def test_a_compiler_that_hangs_is_timed_out_for_its_cells_alone(sweep):
    result, cells, said = sweep("--step-limit", "4", ACME_FAULT="hangs")
    assert result["code"] == 3
    (reason,) = {cell["reason"] for cell in cells if cell["status"] != "ok"}
    assert {(c["kernel"], c["status"]) for c in cells if c["status"] != "ok"} == {(KERNELS[0], "timed_out")}, said
    assert reason == "prepare(), bind() or its first launch, ahead of the measuring took over 4 s (--step-limit)"


def test_a_process_that_is_lost_while_it_compiles_loses_nothing(sweep):
    result, cells, said = sweep(ACME_FAULT="dies")
    assert result["code"] == 0 and {cell["status"] for cell in cells} == {"ok"}, said
    assert f"{KERNELS[0]} could not be compiled ahead: the worker ended with exit code 9" in said


@pytest.mark.slow
def test_a_kernel_that_costs_the_worker_when_it_is_asked_what_to_compile_loses_its_own_cells_alone(sweep):
    result, cells, said = sweep(ACME_FAULT="dies when asked")
    assert result["code"] == 3
    assert {(c["kernel"], c["status"]) for c in cells if c["status"] != "ok"} == {(KERNELS[0], "crashed")}, said
    assert f"a worker was lost, asking {KERNELS[0]} what to compile: the worker ended with exit code 9" in said


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_told_of_and_costs_no_cell(sweep, tmp_path):
    (tmp_path / "file").touch()
    result, cells, said = sweep(cache=tmp_path / "file" / "below")
    assert result["code"] == 0 and {cell["status"] for cell in cells} == {"ok"}, said


@pytest.mark.slow
def test_what_a_shape_compiled_for_itself_is_remembered_too(sweep, tmp_path):
    """One kernel on two shapes: too little for processes of its own."""
    _, _, said = sweep(kernels=KERNELS[:1])
    assert "(0 kernels compiled, 0 cached)" not in said and "compiling" not in said
    assert len(log(tmp_path)) == 2
    _, _, said = sweep(kernels=KERNELS[:1])
    assert "(0 kernels compiled, 2 cached)" in said


@pytest.mark.slow
def test_a_wrong_build_key_is_told_of(sweep):
    result, cells, _ = sweep(ACME_FAULT="no text")
    (reason,) = {cell["reason"] for cell in cells if cell["status"] == "failed"}
    assert reason == "build_key() gave 7: expected text or None (acme.py, line 22)"
    assert result["code"] == 3


def test_an_interrupt_while_kernels_are_compiled_ends_the_sweep_and_its_processes(sweep, tmp_path):
    process = sweep(started=True, ACME_FAULT="hangs")
    while "compiling" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "interrupted: 0 of 2 shapes" in process.stderr.read()
    group = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in group


@pytest.mark.slow
def test_two_sweeps_share_one_cache(sweep, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        both = [one.result() for one in [pool.submit(sweep), pool.submit(sweep)]]
    for result, cells, said in both:
        assert result["code"] == 0 and {cell["status"] for cell in cells} == {"ok"}, said
    _, _, said = sweep()
    assert "(0 kernels compiled, 8 cached)" in said
