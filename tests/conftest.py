"""What all tests share: how many examples are drawn, and how the command is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from w8a8_bench.cli import interrupt
from w8a8_bench.cli.main import main

# Before anything imports torch: each of pytest's processes has one core, and more threads than cores spin for nothing.
os.environ["OMP_NUM_THREADS"] = "1"

# Fuzzed tests draw the same examples in every run, and `make test-all` draws more (--hypothesis-profile all).
# The profile `others` draws new ones in each run.
SHARED = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("same", max_examples=500, derandomize=True, **SHARED)
settings.register_profile("all", max_examples=10_000, derandomize=True, **SHARED)
settings.register_profile("others", max_examples=10_000, **SHARED)
settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""The config.json of a model whose layers a CPU multiplies in no time."""

DOOR = ROOT / "benchmarks/cutlass_benchmarks/w8a8_benchmarks.py"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    """The caller's environment with `src/` on the path, and without the caller's own providers."""
    own = {name: value for name, value in os.environ.items() if name != "W8A8_BENCH_PROVIDERS"}
    return {**own, "PYTHONPATH": str(ROOT / "src")}


def bare() -> dict[str, str]:
    """The environment of the shell that a user pastes into: what a caller set for one run alone is not in it."""
    return {name: value for name, value in os.environ.items() if name not in ("W8A8_BENCH_PROVIDERS", "PYTHONPATH")}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `w8a8-bench WORDS...` in an empty directory; `door=True` runs the original's script instead."""

    def run(*words: str, door: bool = False) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, str(DOOR)] if door else [sys.executable, "-m", "w8a8_bench"]
        env = environment()
        if door:
            del env["PYTHONPATH"]
        return subprocess.run([*start, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def cli_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli`, but in this process, which has imported torch already: for tests that are not about the process itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("W8A8_BENCH_PROVIDERS", raising=False)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        handlers = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
        try:
            code = main(words)
        except SystemExit as end:  # of argparse, after --help
            code = int(end.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run
