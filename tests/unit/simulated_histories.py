"""Made-up histories with known changes: what `history` is judged by."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from w8a8_bench.problem import PER_TENSOR, GemmShape, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.results.history_index import RunFacts, Times
from w8a8_bench.results.record import plain

KERNEL = "cutlass_fp8_fp8_bf16_scaled_mm"
DEVICE = "NVIDIA H200"
RUNS, BASELINES = 60, 8
NOISE, WITHIN = 0.004, 0.0005
ODD, ODD_SHARE = 0.05, 0.02
MISSING = 0.05
MACHINE_STEP = 0.002


@dataclass(frozen=True)
class Planted:
    """What is done to a series: from run `at` on its times are longer by `step` (ln), or by `drift` more in each of
    the next ten runs."""

    at: int = RUNS
    step: float = 0.0
    drift: float = 0.0

    def log(self, run: int) -> float:
        return 0.0 if run < self.at else self.step + self.drift * min(run - self.at + 1, 10)


def run_facts(number: int, **facts: object) -> RunFacts:
    return RunFacts(
        f"run{number:02}.jsonl",
        0,
        f"2026-01-{1 + number // 24:02}T{number % 24:02}:00:00+00:00",
        {"git_revision": f"{number // 5:040x}", "torch": "2.13.0", **facts},
        DEVICE,
        ("GPU-1",),
    )


def cell(number: int, kernel: str = KERNEL) -> str:
    """The name of the cell of a kernel on a shape of its own."""
    shape = GemmShape(m=16 * (number + 1), n=4096, k=4096)
    baseline = kernel == BASELINE
    problem = Problem.of(
        shape=shape,
        format=Format.BF16 if baseline else Format.FP8,
        out=Format.BF16,
        scaling=None if baseline else PER_TENSOR,
    )
    return json.dumps([DEVICE, "time_cold_l2", ["normal", 0.5], kernel, plain(problem)])


def simulate(planted: Mapping[int, Planted], series: int, *, seed: int, runs: int = RUNS) -> list[Times]:
    """`series` cells and some baselines over `runs` runs, on a machine that wanders, with noise between runs, odd times
    and missing ones."""
    rng = random.Random(seed)
    cells = [(cell(n), planted.get(n, Planted())) for n in range(series)]
    cells += [(cell(n, BASELINE), Planted()) for n in range(BASELINES)]
    times, machine = [], 0.0
    for number in range(runs):
        run = run_facts(number)
        machine += rng.gauss(0, MACHINE_STEP)
        for place, (name, plan) in enumerate(cells):
            if rng.random() < MISSING:
                continue
            log = machine + plan.log(number) + rng.gauss(0, NOISE) + rng.gauss(0, WITHIN)
            if rng.random() < ODD_SHARE:
                log += rng.choice((-ODD, ODD))
            times.append(Times(run, name, 1e-5 * (1 + place % 7) * math.exp(log), WITHIN**2, "ok", ""))
    return times
