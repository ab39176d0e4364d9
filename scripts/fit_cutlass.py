"""Fit the model of the CUTLASS kernels' times to measured ones, and choose the configurations that it chooses from.

    python3 scripts/fit_cutlass.py results/calibration/cutlass_tiles_h200.jsonl.gz [MORE FILES] [--dry-run]

The files are what `scripts/tune_cutlass.py --records` writes: for each problem, the seconds of some configurations.
`heuristic.Costs` gives a time from rates (`fitted.Rates`), which are fitted for each family of kernels; what a
configuration takes over that wherever it was measured is its factor. The portfolio is built one configuration at a
time, each the one that brings the best of the portfolio nearest to the best that was measured.

How good it is on weights that it has not seen is judged by leaving out a fifth of them at a time, (n,k) by (n,k): the
time of the configuration that the model chooses, among those that were measured, over the fastest one's. `--parts`
says instead what the time of each large tile is made of: its launch, the end of a tile, and a step of 32 along k. What
serves few tokens (`fitted.FEW`) is left as it is: rates and configurations that were chosen by hand. Needs scipy, and
no GPU.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from w8a8_bench.kernels.cutlass import fitted, heuristic, tuned
from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, Geometry, Occupancy, Schedule, TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import ceil_div
from w8a8_bench.problem.formats import Format

GPU = Occupancy.assumed(132)
VARIANTS = {
    "scaled_mm": Variant(format=Format.FP8, out=Format.BF16),
    "blockwise": Variant(format=Format.FP8, out=Format.BF16, blockwise=True),
}
START = fitted.Rates(
    operations=9000,
    shared=250,
    l2=80,
    l2_total=8500,
    memory=4.5e12,
    latency=1200,
    latency_s=2e-7,
    fill=500,
    launch_s=2.8e-6,
    exposed=0.2,
    shadow=0.2,
    exchange=1400,
    power=0.05,
    cooperative=2000,
    pingpong=500,
    staggered=2000,
    overlapped=800,
)
NEAR, FAR = 1.1, 1.4
"""A configuration's time over the fastest of its problem: up to the first it weighs most, past the second least."""

PRIOR = 2.0
"""Measurements of a factor of 1 that every configuration is given beside its own."""

ROUNDS = 2
"""Times that rates are fitted again with the factors, and factors with the rates."""

PORTFOLIO = {"scaled_mm": 34, "blockwise": 22}
"""Configurations to choose from: a choice costs a microsecond for each."""

LEFT_OUT = 5
"""A share of the weights that is left out at a time is one in so many."""

LEAST_TIMINGS = 30
"""Of a tile, for `--parts`."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a configuration on a problem, and over those of the problem's fastest."""

    config: TileConfig
    m: int
    n: int
    k: int
    seconds: float
    over_best: float

    @property
    def plain(self) -> TileConfig:
        """What has one factor: the order of tiles is chosen by the shape."""
        return replace(self.config, raster=TileConfig.raster)

    @property
    def weight(self) -> float:
        return 3.0 if self.over_best < NEAR else 1.0 if self.over_best < FAR else 0.2


Problems = Sequence[Sequence[Timing]]


def read(files: Iterable[Path]) -> dict[str, list[list[Timing]]]:
    """Of each family, the timings of each problem."""
    problems: dict[str, list[list[Timing]]] = {family: [] for family in VARIANTS}
    for path in files:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in data.decode().splitlines():
            row = json.loads(line)
            if "times" in row and row["m"] > fitted.FEW:
                shape, best = (row["m"], row["n"], row["k"]), min(seconds for _, seconds in row["times"])
                times = [(tuned.from_json(config), seconds) for config, seconds in row["times"]]
                problems[row["family"]].append([Timing(c, *shape, s, s / best) for c, s in times])
    return problems


def predicted(variant: Variant, timings: Iterable[Timing], rates: fitted.Rates) -> numpy.ndarray:
    """Seconds [timings] by the rates alone."""

    @cache
    def costs(config: TileConfig) -> heuristic.Costs:
        return heuristic.Costs.of(config, variant, GPU, rates, 1.0)

    times = []
    for one in timings:
        load = heuristic.slower(rates, one.m, one.n, one.k)
        times.append(costs(one.plain).seconds(one.m, one.n, one.k, load))
    return numpy.array(times)


def fit(variant: Variant, problems: Problems) -> tuple[fitted.Rates, dict[TileConfig, float]]:
    """The rates, and the factor of every configuration that was measured."""
    timings = [one for problem in problems for one in problem]
    weights = numpy.array([one.weight for one in timings])
    seconds = numpy.log([one.seconds for one in timings])
    rates, factors = START, dict[TileConfig, float]()
    for _ in range(1 + ROUNDS):
        begin = numpy.array(rates)
        known = numpy.array([math.log(factors.get(one.plain, 1.0)) for one in timings])

        def errors(steps: numpy.ndarray, begin: numpy.ndarray = begin, known: numpy.ndarray = known) -> numpy.ndarray:
            times = predicted(variant, timings, fitted.Rates(*(begin * numpy.exp(steps))))
            near_begin = 0.02 * math.sqrt(len(timings)) * steps / 3
            return numpy.concatenate([weights * (numpy.log(times) + known - seconds), near_begin])

        steps = least_squares(errors, numpy.zeros(len(begin)), loss="soft_l1", f_scale=0.05, diff_step=1e-4, ftol=1e-4)
        rates = fitted.Rates(*(float(rate) for rate in begin * numpy.exp(steps.x)))
        off = numpy.clip(seconds - numpy.log(predicted(variant, timings, rates)), -1, 2)
        sums: dict[TileConfig, list[float]] = defaultdict(lambda: [0.0, PRIOR])
        for one, value in zip(timings, off, strict=True):
            sums[one.plain][0] += one.weight * value
            sums[one.plain][1] += one.weight
        factors = {config: math.exp(total / weight) for config, (total, weight) in sums.items()}
    return rates, factors


def portfolio(problems: Problems, size: int) -> list[TileConfig]:
    """Configurations whose best comes nearest to the best that was measured, in the order in which they are added.

    Overlapped tiles take no longer than cooperative ones anywhere: one that was measured stands for its twin too.
    """
    measured = {one.plain for problem in problems for one in problem}

    def served_by(config: TileConfig) -> list[TileConfig]:
        twin = replace(config, schedule=Schedule.OVERLAPPED)
        is_served = config.schedule is Schedule.COOPERATIVE and twin in measured
        return [config, twin] if is_served else [config]

    left = [math.log(FAR)] * len(problems)
    reach: dict[TileConfig, dict[int, float]] = defaultdict(dict)
    for index, problem in enumerate(problems):
        for one in problem:
            for config in served_by(one.plain):
                reach[config][index] = min(math.log(one.over_best), reach[config].get(index, math.inf))
    chosen: list[TileConfig] = []
    while len(chosen) < min(size, len(reach)):

        def gain(config: TileConfig) -> float:
            return sum(max(0.0, left[index] - over) for index, over in reach[config].items())

        best = max((config for config in reach if config not in chosen), key=gain)
        if gain(best) <= 0:
            break
        chosen.append(best)
        for index, over in reach[best].items():
            left[index] = min(left[index], over)
    return chosen


def regrets(
    variant: Variant,
    problems: Problems,
    rates: fitted.Rates,
    factors: Mapping[TileConfig, float],
    allowed: Iterable[TileConfig] | None = None,
) -> dict[tuple[int, int, int], float]:
    """By shape: the time of what the model chooses over the fastest, of the configurations that were measured."""
    found = {}
    for problem in problems:
        options = [one for one in problem if allowed is None or one.plain in allowed]
        if options:
            times = predicted(variant, options, rates) * [factors.get(one.plain, NEAR) for one in options]
            first = problem[0]
            found[first.m, first.n, first.k] = options[int(times.argmin())].over_best
    return found


def described(found: Mapping[tuple[int, int, int], float]) -> str:
    values = sorted(found.values())
    by_m = defaultdict(list)
    for (m, _, _), value in found.items():
        by_m[m].append(value)
    mean = statistics.geometric_mean(values)
    each = ", ".join(f"{m}: {statistics.geometric_mean(of_m):.3f}" for m, of_m in sorted(by_m.items()))
    return f"{mean:.4f} (95% below {values[int(0.95 * len(values))]:.3f}, at most {values[-1]:.3f}); by m {each}"


def cross_validated(variant: Variant, problems: Problems) -> dict[tuple[int, int, int], float]:
    weights = sorted({(problem[0].n, problem[0].k) for problem in problems})
    random.Random(0).shuffle(weights)
    found = {}
    for part in range(LEFT_OUT):
        left_out = set(weights[part::LEFT_OUT])
        known = [problem for problem in problems if (problem[0].n, problem[0].k) not in left_out]
        others = [problem for problem in problems if (problem[0].n, problem[0].k) in left_out]
        found |= regrets(variant, others, *fit(variant, known))
    return found


def print_parts(variant: Variant, problems: Problems) -> None:
    """Launch, tile end and step of each tile that was measured often enough over two and more waves, by least squares
    of the relative errors: seconds = launch + waves * (end + steps * step)."""
    rows: dict[tuple[int, int, bool, str], list[tuple[float, float, float]]] = defaultdict(list)
    for one in (one for problem in problems for one in problem):
        config, resident = one.config, heuristic.resident_clusters(Geometry(one.config, variant), GPU)
        clusters = ceil_div(one.m, config.tile_m * config.cluster[0]) * ceil_div(
            one.n, config.tile_n * config.cluster[1]
        )
        if config.split_k == 1 and clusters > resident:
            waves = ceil_div(clusters, resident)
            alike = config.tile_m, config.tile_n, config.swap, config.schedule.value
            rows[alike].append((waves, waves * one.k / INSTRUCTION_K, one.seconds))
    for (tile_m, tile_n, swap, schedule), found in sorted(rows.items()):
        if len(found) >= LEAST_TIMINGS:
            waves, steps, seconds = numpy.array(found).T
            terms = numpy.stack([numpy.ones_like(waves), waves, steps], axis=1) / seconds[:, None]
            (launch, end, step), *_ = numpy.linalg.lstsq(terms, numpy.ones_like(seconds), rcond=None)
            error = float(numpy.sqrt(numpy.mean((terms @ [launch, end, step] - 1) ** 2)))
            tile = f"{tile_m}x{tile_n}{' swapped' if swap else ''}"
            times = f"launch {1e6 * launch:.1f} us, tile end {1e6 * end:.2f} us, step {1e9 * step:.0f} ns"
            print(f"  {tile:<16} {schedule:<12} {len(found):>4} timings: {times} (rms error {error:.1%})")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Fit the model of the CUTLASS kernels' times.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="leave the fitted file as it is")
    parser.add_argument("--parts", action="store_true", help="say what the time of a tile is made of, and fit nothing")
    parser.add_argument("--no-validation", action="store_true", help="don't cross-validate, which takes minutes")
    args = parser.parse_args(argv)
    path = Path(fitted.__file__).with_name(fitted.FILE)
    families = json.loads(path.read_text(encoding="utf-8"))["families"]
    for family, problems in read(args.files).items():
        variant = VARIANTS[family]
        print(f"{family}: {sum(map(len, problems))} timings of {len(problems)} problems", flush=True)
        if args.parts:
            print_parts(variant, problems)
            continue
        if not args.no_validation:
            print(f"  chosen over best, unseen weights: {described(cross_validated(variant, problems))}", flush=True)
        rates, factors = fit(variant, problems)
        chosen = portfolio(problems, PORTFOLIO[family])
        seen = regrets(variant, problems, rates, factors, set(chosen))
        print(f"  chosen over best, {len(chosen)} configurations: {described(seen)}", flush=True)
        tiles = [fitted.Tile(c, Geometry(c, variant).blocks_of_sm, factors[c]) for c in chosen]
        tiles.sort(key=lambda one: (not one.config.swap, one.config.tile_m, one.config.tile_n, one.config.split_k))
        families[family] = {
            "rates": {name: float(f"{rate:.4g}") for name, rate in rates._asdict().items()},
            "tiles": [fitted.to_json(tile) for tile in tiles],
        }
    if not args.dry_run and not args.parts:
        path.write_text(render(families), encoding="utf-8")
    return 0


def render(families: Mapping[str, Mapping[str, object]]) -> str:
    """The file as JSON, a tile a line."""
    blocks = []
    for family, found in families.items():
        tiles = ",\n".join(f"  {json.dumps(tile)}" for tile in found["tiles"])  # type: ignore[attr-defined]
        blocks.append(f'"{family}": {{"rates": {json.dumps(found["rates"])},\n "tiles": [\n{tiles}\n]}}')
    joined = ",\n".join(blocks)
    return f'{{\n"device": "NVIDIA H200",\n"families": {{\n{joined}\n}}\n}}\n'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
