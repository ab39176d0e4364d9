"""What all tests share: how the command is run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch: each of pytest's processes has one core, and more threads than cores spin for nothing.
os.environ["OMP_NUM_THREADS"] = "1"

# Fuzzed tests draw the same examples in every run; with FUZZ=1 they draw others.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("others", database=None)
settings.load_profile("others" if os.environ.get("FUZZ") else "same")

ROOT = Path(__file__).resolve().parents[1]
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
