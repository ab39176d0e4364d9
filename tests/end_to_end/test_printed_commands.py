"""Every command that a run prints works in the shell that it is printed in, in the state that the run leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DOOR, ROOT, bare, environment

BASELINE, INT8 = "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm"
KERNELS = ("--kernels", BASELINE, INT8)
SWEEP = ("--dtype", "int8", "--device", "cpu", "--rigor", "quick", "--out", "r.jsonl")
SQUARE = ("square_bench", "--dim-start", "32", "--dim-end", "48", "--dim-increment", "16")
MODEL = ("model_bench", "--batch-sizes", "1", "--models")
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def run(where: Path, *words: str, door: bool = False, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Standard output and error of a sweep that ends well."""
    start = [sys.executable, str(DOOR)] if door else [sys.executable, "-m", "w8a8_bench"]
    env = env or (bare() if door else environment())
    done = subprocess.run([*start, *words], cwd=where, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def next_command(out: str) -> str:
    """What stands after `next:`, over as many lines as the shell reads as one."""
    return out[out.index("\nnext: ") + len("\nnext: ") :]


def pasted(where: Path, command: str) -> str:
    shell = subprocess.run(["sh", "-c", command], cwd=where, env=bare(), capture_output=True, text=True, timeout=300)
    assert shell.returncode == 0, f"{command}\n{shell.stderr}"
    return shell.stdout


def test_after_squares_a_report_for_a_comment_is_next(tmp_path):
    out, _ = run(tmp_path, *SWEEP, *KERNELS, *SQUARE)
    assert INT8 in pasted(tmp_path, next_command(out))
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("tp", ["1", "2"])
def test_after_a_model_its_recommendation_is_next(tmp_path, tp):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    out, _ = run(tmp_path, *SWEEP, *KERNELS, *MODEL, "./config.json", "--tp-sizes", tp)
    assert "qkv_proj" in pasted(tmp_path, next_command(out))


def test_after_the_script_the_report_that_it_did_not_write_is_next(tmp_path):
    out, _ = run(tmp_path, *SWEEP, *KERNELS, *SQUARE, door=True)
    assert not (tmp_path / "r.html").exists()
    pasted(tmp_path, next_command(out))
    assert (tmp_path / "r.html").exists()


def test_without_a_report_it_is_next(tmp_path):
    out, _ = run(tmp_path, *SWEEP, *KERNELS, *SQUARE, "--no-report")
    assert "report:" not in out and not (tmp_path / "r.html").exists()
    pasted(tmp_path, next_command(out))
    assert (tmp_path / "r.html").exists()


def test_what_can_not_run_is_explained_by_the_command_that_is_named(tmp_path):
    out, _ = run(tmp_path, *SWEEP, *KERNELS, "cutlass_i8_i8_bf16_scaled_mm", *SQUARE)
    (command,) = re.findall(r"`(.*? doctor)`", " ".join(out.split()))
    assert "cutlass" in pasted(tmp_path, command)


def test_the_first_look_at_a_machine_without_a_gpu_ends_with_the_next_one(tmp_path):
    """What `make bench` runs, as it runs it."""
    out, _ = run(tmp_path, "quick_bench", "--device", "cpu", "--budget", "5", "--out", "q.jsonl")
    lines = out.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120
    assert "fp8, which this CPU would only emulate (--dtype fp8 does)" in " ".join(out.split())
    assert [line for line in lines if line.startswith(("fastest:", "how sure:", "report:"))]
    assert "gate_up_proj" in pasted(
        tmp_path, next_command(out).replace("--batch-sizes 16", "--batch-sizes 16 --budget 2")
    )


def test_a_dry_run_measures_nothing_and_needs_no_torch(tmp_path):
    barred = {**environment(), "PYTHONPATH": f"{tmp_path / 'barred'}:{ROOT / 'src'}"}
    (tmp_path / "barred").mkdir()
    (tmp_path / "barred" / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    out, errors = run(tmp_path, *SWEEP, *KERNELS, *SQUARE, "--dry-run", env=barred)
    assert errors == ""
    assert out.splitlines()[0] == "square_bench on the CPU: 2 shapes, 4 cells, rigor quick"
    assert re.search(r"^estimate: about \d+ s$", out, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["barred"]


def test_a_long_plan_says_its_estimate_before_it_starts(tmp_path):
    program = (
        "from w8a8_bench.cli import session\n"
        "from w8a8_bench.cli.main import main\n"
        "session.LONG_S = 0.0\n"
        f"raise SystemExit(main({[*SWEEP, *KERNELS, *SQUARE]!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^2 shapes: about \d+ s$", done.stderr, re.MULTILINE)


def test_a_page_that_would_be_overwritten_is_refused(tmp_path):
    (tmp_path / "r.html").write_text("mine")
    words = [sys.executable, "-m", "w8a8_bench", *SWEEP, *KERNELS, *SQUARE]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "r.html exists, and the report of this sweep would overwrite it" in done.stderr
    assert (tmp_path / "r.html").read_text() == "mine"


def test_after_a_sweep_in_which_nothing_ran_the_doctor_is_next(tmp_path):
    out, _ = run(tmp_path, *SWEEP, "--kernels", "cutlass_i8_i8_bf16_scaled_mm", *SQUARE)
    assert "fastest: nothing was timed" in out
    assert "cutlass" in pasted(tmp_path, next_command(out))


def test_times_without_an_interval_are_not_recommended_from(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    program = (
        "from w8a8_bench.timing import settings\n"
        "from w8a8_bench.cli.main import main\n"
        "settings.CPU_BUDGET_S = 0.0\n"
        f"raise SystemExit(main({[*SWEEP, *KERNELS, *MODEL, './config.json']!r}))\n"
    )
    env = environment()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = next_command(done.stdout)
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
def test_a_dry_run_refuses_what_the_sweep_would(tmp_path, words, says):
    (tmp_path / "taken.jsonl").write_text("mine\n")
    command = [sys.executable, "-m", "w8a8_bench", "--dtype", "int8", "--device", "cpu", *SQUARE, "--dry-run", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken.jsonl"]
