"""Triton's kernels under its interpreter, against the oracle: `tests/interpreted`, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

INTERPRETED = Path(__file__).resolve().parents[3] / "interpreted"
FILES = sorted(path.name for path in INTERPRETED.glob("test_*.py"))


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:2])


def why_not() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if _release("triton") < (3, 7) and _release("numpy") >= (2, 4):
        return "the interpreter of Triton before 3.7 fails with numpy 2.4 and newer"
    return None


def test_there_are_interpreted_tests():
    assert FILES == ["test_gemms.py", "test_problems.py", "test_quantization.py"]


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels_are_right_under_the_interpreter(which):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", which, str(INTERPRETED)]
    ran = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        cwd=INTERPRETED.parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
