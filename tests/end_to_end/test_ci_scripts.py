"""What docs/ci.md offers to copy: a gate, and a step of `git bisect`, with real sweeps on this machine."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

CI = ROOT / "docs/ci"
KERNEL = "acme_i8_i8_bf16_scaled_mm"
SWEEP = (  # without a baseline, whose time other tests beside this one move
    *(
        "--dtype",
        "int8",
        "--device",
        "cpu",
        "--rigor",
        "publish",
        "--processes",
        "1",
        "--budget",
        "4",
        "--kernels",
        KERNEL,
    ),
    *("square_bench", "--dim-start", "64", "--dim-end", "64", "--dim-increment", "1"),
)
ACME = '''
"""A kernel that takes as long as it is told to: another program on the machine changes that by little."""
import time
from types import SimpleNamespace
import w8a8_bench.kernel as seam

KERNELS = ("acme_i8_i8_bf16_scaled_mm",)
WAIT_S = {wait}

def probe():
    return seam.Probe.of("torch")

def kernel(name):
    import torch

    def bind(operands):
        a, b, out, scale_a, scale_b = operands.a, operands.b, operands.out, operands.scale_a, operands.scale_b

        def launch():
            end = time.perf_counter() + WAIT_S
            out.copy_(torch._int_mm(a, b) * scale_a * scale_b)
            while time.perf_counter() < end:
                pass

        return seam.Launches(launch)

    return SimpleNamespace(
        name=name,
        supports=lambda problem, device: seam.Support.yes(),
        prepare=lambda problem, device: seam.PreparedKernel(bind, {{}}),
    )
'''
SLOW = 7
"""The commit, of twelve, from which on the kernel takes six times as long: other tests' work makes less of a change."""
FAST_S, SLOW_S, THRESHOLD = 2e-3, 12e-3, "200"
BROKEN = 5
"""One that can't be imported."""


def variables(where: Path) -> dict[str, str]:
    """The environment of a user who has `w8a8-bench` on the PATH and a provider in the repository."""
    bin_ = where / "bin"
    bin_.mkdir(exist_ok=True)
    for name, words in (("w8a8-bench", "-m w8a8_bench "), ("python3", "")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (bin_ / name).chmod((bin_ / name).stat().st_mode | stat.S_IXUSR)
    return {
        **environment(),
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "W8A8_BENCH_PROVIDERS": str(where / "repository/acme.py"),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }


def run(where: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=where, env={**variables(where.parent), **more}, capture_output=True, text=True, timeout=600
    )


def source(wait: float) -> str:
    return ACME.format(wait=wait)


@pytest.mark.slow
def test_bisect_names_the_commit_that_made_a_kernel_slower(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    run(repository, "git", "init", "-q", "-b", "main")
    for number in range(12):
        wait = SLOW_S if number >= SLOW else FAST_S
        body = "import nonsense_that_is_not_there\n" if number == BROKEN else source(wait)
        (repository / "acme.py").write_text(f"# {number}\n{body}")
        run(repository, "git", "add", "acme.py")
        assert run(repository, "git", "commit", "-qm", f"commit {number}").returncode == 0
    first = run(repository, "git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    run(repository, "git", "checkout", "-q", first)
    base = str(tmp_path / "good.jsonl")
    made = run(repository, "w8a8-bench", *SWEEP, "--out", base)
    assert made.returncode == 0, made.stderr
    run(repository, "git", "bisect", "start", "main", first)
    found = run(
        repository, "git", "bisect", "run", "sh", str(CI / "bisect_slower.sh"), base, *SWEEP, THRESHOLD=THRESHOLD
    )
    assert f"commit {SLOW}" in run(repository, "git", "log", "-1", "--format=%s", "bisect/bad").stdout, found.stdout
    assert "is the first bad commit" in found.stdout
    run(repository, "git", "checkout", "-q", f"main~{11 - BROKEN}")
    step = run(repository, "sh", str(CI / "bisect_slower.sh"), base, *SWEEP)
    assert step.returncode == 125, "a commit that can't be imported is good or bad"
    assert run(repository, "sh", str(CI / "bisect_slower.sh"), base, *SWEEP, BUILD="exit 3").returncode == 125


@pytest.mark.slow
def test_the_gate_keeps_the_runs_of_main_and_fails_what_is_slower(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    gate = ("sh", str(CI / "gate.sh"), str(tmp_path / "the records"), *SWEEP)
    (repository / "acme.py").write_text(source(FAST_S))

    def go(code: int, **more: str) -> str:
        done = run(repository, *gate, THRESHOLD=THRESHOLD, **more)
        assert done.returncode == code, done.stdout + done.stderr
        return (repository / "gate/comment.md").read_text(encoding="utf-8")

    assert go(0) == "", "there is nothing to compare with"
    for _ in range(2):
        assert "too few runs to judge" in go(0, KEEP="1")
    assert len(list((tmp_path / "the records").glob("*.jsonl"))) == 2
    assert "0 slower" in go(0)
    (repository / "acme.py").write_text(source(SLOW_S))
    assert "1 slower" in go(1)
    assert len(list((tmp_path / "the records").glob("*.jsonl"))) == 2, "a pull request's run was kept"
    (repository / "acme.py").write_text("import nonsense_that_is_not_there\n")
    assert "unsupported" in go(1), "a kernel that can't be loaded any more passes the gate"
