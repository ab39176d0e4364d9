"""Commands that are printed work in the shell that they are printed in."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from w8a8_bench.cli import next_command

ROOT = Path(__file__).resolve().parents[3]


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """An environment's directory of commands with `names` in it, this Python among them, first on the PATH."""
    scripts = tmp_path / "env" / "bin"
    scripts.mkdir(parents=True)
    for name in names:
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python3"))
    monkeypatch.setenv("PATH", str(scripts))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("W8A8_BENCH_PROVIDERS", raising=False)
    return scripts


def test_an_activated_environment_has_the_command(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, "python3", "w8a8-bench")
    assert next_command.command("w8a8-bench", "report", "a b.jsonl") == "w8a8-bench report 'a b.jsonl'"


def test_the_command_of_another_environment_is_not_taken(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    scripts = made(tmp_path, monkeypatch, "python3")
    (other / "w8a8-bench").write_text("#!/bin/sh\n")
    (other / "w8a8-bench").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:{scripts}")
    assert next_command.command("w8a8-bench", "doctor") == "python3 -m w8a8_bench doctor"


def test_an_environment_that_is_not_active_is_named_by_its_path(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, "python3", "w8a8-bench")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert next_command.command("w8a8-bench", "doctor") == "env/bin/python3 -m w8a8_bench doctor"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert next_command.command("w8a8-bench", "doctor") == f"{tmp_path}/env/bin/python3 -m w8a8_bench doctor"


def test_what_the_caller_set_for_this_run_alone_is_repeated(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, "python3")
    monkeypatch.setenv("W8A8_BENCH_PROVIDERS", "my file.py")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:/elsewhere")
    command = next_command.command("w8a8-bench", "doctor")
    assert command == (
        f"env 'W8A8_BENCH_PROVIDERS=my file.py' PYTHONPATH={ROOT / 'src'}:/elsewhere python3 -m w8a8_bench doctor"
    )
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "PYTHONPATH" not in next_command.command("w8a8-bench", "doctor"), "the package does not come from there"


def test_the_script_is_started_as_it_was(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, "python3")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setattr(sys, "argv", ["benchmarks/cutlass_benchmarks/w8a8_benchmarks.py", "square_bench"])
    command = next_command.command("w8a8_benchmarks.py", "report", "r.jsonl")
    assert command == "python3 benchmarks/cutlass_benchmarks/w8a8_benchmarks.py report r.jsonl"


@pytest.mark.parametrize("width", [30, 60, None])
def test_a_long_command_is_broken_as_the_shell_reads_it(width):
    words = ["recommend", "results/of a day.jsonl", "--model", "meta-llama/Llama-3.1-8B-Instruct"]
    lines = next_command.lines(shlex.join(["printf", "%s\\n", *words]), width)
    assert all(len(line) <= width for line in lines if width and " " in line.strip())
    shell = subprocess.run(["sh", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=True)
    assert shell.stdout.splitlines() == words


def test_the_command_of_this_very_environment_runs(tmp_path):
    program = "from w8a8_bench.cli.next_command import command; print(command('w8a8-bench', 'list', 'schemes'))"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    python = [sys.executable, "-c", program]
    printed = subprocess.run(python, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    del env["PYTHONPATH"]
    shell = ["sh", "-c", printed.stdout]
    result = subprocess.run(shell, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "tensor-w-tensor-a" in result.stdout
