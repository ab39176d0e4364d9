"""Every command that a run prints works in the shell that it is printed in, in the state that the run leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY, bare, environment

from w8a8_bench.cli import quick, session
from w8a8_bench.timing import settings

BASELINE, INT8 = "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm"
KERNELS = ("--kernels", BASELINE, INT8)
SWEEP = ("--dtype", "int8", "--device", "cpu", "--rigor", "quick", "--out", "r.jsonl")
SQUARE = ("square_bench", "--dim-start", "32", "--dim-end", "48", "--dim-increment", "16")
MODEL = ("model_bench", "--batch-sizes", "1", "--models")


@pytest.fixture
def swept(cli_here) -> Callable[..., str]:
    """Standard output of a sweep that ends well."""

    def run(*words: str) -> str:
        result = cli_here(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def next_command(out: str) -> str:
    """What stands after `next:`, over as many lines as the shell reads as one."""
    return out[out.index("\nnext: ") + len("\nnext: ") :]


def pasted(where: Path, command: str) -> str:
    shell = subprocess.run(["sh", "-c", command], cwd=where, env=bare(), capture_output=True, text=True, timeout=300)
    assert shell.returncode == 0, f"{command}\n{shell.stderr}"
    return shell.stdout


def test_after_squares_a_report_for_a_comment_is_next(swept, tmp_path):
    out = swept(*SWEEP, *KERNELS, *SQUARE)
    assert INT8 in pasted(tmp_path, next_command(out))
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("tp", ["1", "2"])
def test_after_a_model_its_recommendation_is_next(swept, tmp_path, tp):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    out = swept(*SWEEP, *KERNELS, *MODEL, "./config.json", "--tp-sizes", tp)
    assert "qkv_proj" in pasted(tmp_path, next_command(out))


@pytest.mark.slow
def test_after_the_script_the_report_that_it_did_not_write_is_next(cli, tmp_path):
    result = cli(*SWEEP, *KERNELS, *SQUARE, door=True)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "r.html").exists()
    pasted(tmp_path, next_command(result.stdout))
    assert (tmp_path / "r.html").exists()


def test_without_a_report_it_is_next(swept, tmp_path):
    out = swept(*SWEEP, *KERNELS, *SQUARE, "--no-report")
    assert "report:" not in out and not (tmp_path / "r.html").exists()
    pasted(tmp_path, next_command(out))
    assert (tmp_path / "r.html").exists()


def test_what_can_not_run_is_explained_by_the_command_that_is_named(swept, tmp_path):
    out = swept(*SWEEP, *KERNELS, "cutlass_i8_i8_bf16_scaled_mm", *SQUARE)
    (command,) = re.findall(r"`(.*? doctor)`", " ".join(out.split()))
    assert "cutlass" in pasted(tmp_path, command)


@pytest.mark.parametrize(
    ("squares", "more"),
    [((32, 48), " --dry-run"), pytest.param(quick.CPU_SQUARES, " --budget 2", marks=pytest.mark.slow)],
    ids=["tiny", "as make bench runs it"],
)
def test_the_first_look_at_a_machine_without_a_gpu_ends_with_the_next_one(swept, tmp_path, monkeypatch, squares, more):
    monkeypatch.setattr(quick, "CPU_SQUARES", squares)
    out = swept("quick_bench", "--device", "cpu", "--budget", "5", "--out", "q.jsonl")
    lines = out.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120
    assert "fp8, which this CPU would only emulate (--dtype fp8 does)" in " ".join(out.split())
    assert [line for line in lines if line.startswith(("fastest:", "how sure:", "report:"))]
    command = next_command(out)
    assert "--batch-sizes 16" in command
    assert ("model_bench" if "dry" in more else "gate_up_proj") in pasted(tmp_path, command.rstrip() + more)


def test_a_dry_run_measures_nothing_and_needs_no_torch(tmp_path):
    barred = {**environment(), "PYTHONPATH": f"{tmp_path / 'barred'}:{ROOT / 'src'}"}
    (tmp_path / "barred").mkdir()
    (tmp_path / "barred" / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    words = [sys.executable, "-m", "w8a8_bench", *SWEEP, *KERNELS, *SQUARE, "--dry-run"]
    done = subprocess.run(words, cwd=tmp_path, env=barred, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "square_bench on the CPU: 2 shapes, 4 cells, rigor quick"
    assert re.search(r"^estimate: about \d+ s$", done.stdout, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["barred"]


def test_a_long_plan_says_its_estimate_before_it_starts(cli_here, monkeypatch):
    monkeypatch.setattr(session, "LONG_S", 0.0)
    result = cli_here(*SWEEP, *KERNELS, *SQUARE)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^2 shapes: about \d+ s$", result.stderr, re.MULTILINE)


def test_a_page_that_would_be_overwritten_is_refused(cli_here, tmp_path):
    (tmp_path / "r.html").write_text("mine")
    result = cli_here(*SWEEP, *KERNELS, *SQUARE)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "r.html exists, and the report of this sweep would overwrite it" in result.stderr
    assert (tmp_path / "r.html").read_text() == "mine"


def test_after_a_sweep_in_which_nothing_ran_the_doctor_is_next(swept, tmp_path):
    out = swept(*SWEEP, "--kernels", "cutlass_i8_i8_bf16_scaled_mm", *SQUARE)
    assert "fastest: nothing was timed" in out
    assert "cutlass" in pasted(tmp_path, next_command(out))


def test_times_without_an_interval_are_not_recommended_from(swept, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    monkeypatch.setattr(settings, "CPU_BUDGET_S", 0.0)
    command = next_command(swept(*SWEEP, *KERNELS, *MODEL, "./config.json"))
    assert " report " in command.replace("\\\n", " ")
    pasted(tmp_path, command)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "taken.jsonl"), "taken.jsonl exists"),
        (("--out", "nowhere/r.jsonl"), "there is no directory nowhere"),
        (("--out", "r.json"), "expected a name that ends in .jsonl"),
        (("--resume",), "--resume needs --out FILE"),
    ],
)
def test_a_dry_run_refuses_what_the_sweep_would(cli_here, tmp_path, words, says):
    (tmp_path / "taken.jsonl").write_text("mine\n")
    result = cli_here("--dtype", "int8", "--device", "cpu", *SQUARE, "--dry-run", *words)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken.jsonl"]
