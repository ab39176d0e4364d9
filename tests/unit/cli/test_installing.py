"""docs/installing.md: make, pip and this program take its commands, and its table is the one that doctor prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from w8a8_bench.cli import main
from w8a8_bench.providers.registry import PROVIDERS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/installing.md").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
FENCES = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for fence in FENCES for line in fence.splitlines() if not fence.startswith("provider ")]
INLINE = [code for code in re.findall(r"`([^`\n]+)`", TEXT) if code.startswith(("make ", "pip ", "w8a8-bench "))]
EXTRAS = dict(re.findall(r"^(\w+) = \[(.*)\]$", PROJECT, re.MULTILINE))


@pytest.mark.parametrize("command", dict.fromkeys([*COMMANDS, *INLINE]))
def test_every_command_is_one_that_its_program_takes(command: str) -> None:
    words = [word for word in shlex.split(command) if not word.startswith("PIP_EXTRA_INDEX_URL=")]
    if words[0] == "make":
        env = {**os.environ, "MAKEFLAGS": "n"}  # says what it would run, and runs nothing
        said = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
    elif words[0] == "w8a8-bench":
        main._parser("w8a8-bench").parse_args(words[1:])
    elif words[0] == "pip":
        assert words[1] in ("install", "uninstall", "wheel")
        for extra in re.findall(r"\[(.+?)\]", command):
            assert extra in EXTRAS
    else:
        assert command in ("python3 -m venv .venv", ". .venv/bin/activate"), "a command that nothing here tests"


def test_the_versions_are_those_of_the_extras() -> None:
    for extra, (first, last) in {"cu13": ("2.11", "2.15"), "cu12": ("2.10", "2.10"), "cpu": ("2.10", "2.15")}.items():
        bounds = re.search(r'"torch>=(\d+\.\d+),<2\.(\d+)"', EXTRAS[extra])
        assert bounds is not None
        assert (bounds[1], f"2.{int(bounds[2]) - 1}") == (first, last)
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{extra}` |"))
        assert f"| {first} to {last}" in row or (first == last and row.endswith(f"| {first} |"))
    assert re.search(r"pip install '(torch[^']+)' --index-url", TEXT)[1] in EXTRAS["cpu"]


def test_the_table_has_every_provider_with_its_number_of_kernels() -> None:
    (table,) = [fence for fence in FENCES if fence.startswith("provider ")]
    rows = re.findall(r"^(\w+) +\S+ +\d+ of (\d+)", table, re.MULTILINE)
    assert rows == [(one.name, str(len(one.kernels + one.on_request))) for one in PROVIDERS]
