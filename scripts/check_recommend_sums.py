"""Checks the sums of a recommendation from the records, with arithmetic of its own.

    w8a8-bench recommend RESULTS --model NAME --format json -o answer.json
    python3 scripts/check_recommend_sums.py answer.json [RESULTS ...]

RESULTS: the files that the answer names, if none are given. Only the standard library is used. From the raw lines it
works out the times of every kernel that the answer chose and of bf16, the sums over layers times counts, the speed-ups
and their means over m. It does not repeat the choice. A line for each number that differs by more than 1e-6 of it; the
exit code is 1 then, 0 if all agree, and 2 for files that can't be read.
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
CLOSE = 1e-6

Json = Mapping[str, Any]


def lines_of(path: str) -> Iterator[Json]:
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):  # a torn line closes nothing
                yield json.loads(line)


def comparisons_of(paths: Sequence[str]) -> list[list[Json]]:
    """Cells of every comparison that was closed, each with its labels."""
    found, cells = [], []
    for path in paths:
        for line in lines_of(path):
            if line["kind"] == "cell":
                cells.append(line)
            elif line["kind"] == "comparison":
                found.append([one for one in cells if one["comparison"] == line["index"]])
                cells = []
            else:
                cells = []
    return found


def scheme_of(cell: Json) -> str:
    problem = cell["problem"]
    if not problem.get("scheme"):
        return str(problem["format"])
    azp = problem.get("azp") or "none"
    return f"{problem['format']} {problem['scheme']}{'' if azp == 'none' else f' azp {azp}'}"


class Times:
    """The time of a kernel under a scheme in a layer: that beside the first bf16 of its shape. If it was measured more
    than once, the geometric mean of its ratios to the bf16 beside it.
    """

    def __init__(self, answer: Json, paths: Sequence[str]) -> None:
        self._answer, self._measure = answer, answer["measure"]
        self._by_shape: dict[tuple[int, int, int], list[list[Json]]] = {}
        for cells in comparisons_of(paths):
            if cells:
                problem = cells[0]["problem"]
                self._by_shape.setdefault((problem["m"], problem["n"], problem["k"]), []).append(cells)

    def of(self, layer: Json, m: int, kernel: str, scheme: str) -> float:
        pairs = []
        for cells in self._comparisons(layer, m):
            base = self._seconds(cells, BASELINE, "bf16")
            own = self._seconds(cells, kernel, scheme)
            if base is not None:
                pairs.append((base, own))
        first = pairs[0][0]
        known = [math.log(own / base) for base, own in pairs if own is not None]
        return math.nan if not known else first * math.exp(math.fsum(known) / len(known))

    def _comparisons(self, layer: Json, m: int) -> list[list[Json]]:
        every = self._by_shape.get((m, layer["n"], layer["k"]), [])
        of_model = [cells for cells in every if self._label(cells, "model") == self._answer["model"]]
        own = [cells for cells in of_model if self._label(cells, "layer") == layer["layer"]]
        return [*(own or of_model), *(cells for cells in every if cells not in of_model)]

    @staticmethod
    def _label(cells: Sequence[Json], name: str) -> object:
        return (cells[0].get("labels") or {}).get(name)

    def _seconds(self, cells: Sequence[Json], kernel: str, scheme: str) -> float | None:
        kind = self._answer["activations"]
        for cell in cells:
            fits = cell["kernel"] == kernel and cell["status"] == "ok" and scheme_of(cell) == scheme
            if fits and (kernel == BASELINE or cell["problem"].get("activations", "prequantized") == kind):
                samples = (cell.get("samples") or {}).get(self._measure)
                return estimate(samples, cell, self._measure) if samples else None
        return None


def estimate(samples: Sequence[float], cell: Json, measure: str) -> float:
    """The median; of several processes the mean of theirs."""
    processes, blocks = cell.get("processes"), (cell.get("blocks") or {}).get(measure)
    if not processes or not blocks:
        return statistics.median(samples)
    groups: dict[int, list[float]] = {}
    for seconds, block in zip(samples, blocks, strict=True):
        groups.setdefault(processes[block], []).append(seconds)
    return statistics.fmean(map(statistics.median, groups.values()))


class Check:
    """Counts what agrees and prints what does not."""

    def __init__(self) -> None:
        self.right = self.wrong = 0

    def __call__(self, what: str, said: float | None, worked_out: float) -> None:
        if said is not None and abs(said - worked_out) <= CLOSE * abs(worked_out):
            self.right += 1
        else:
            self.wrong += 1
            print(f"{what}: the answer says {said}, the records give {worked_out:.9g}")


def check_answer(answer: Json, paths: Sequence[str], check: Check) -> None:
    times = Times(answer, paths)
    layers = {layer["layer"]: layer for layer in answer["layers"]}

    def total(kernels: Json, m: int) -> float:
        return math.fsum(
            layers[name]["count"] * times.of(layers[name], m, one["kernel"], one["scheme"])
            for name, one in kernels.items()
        )

    for layer in answer["layers"]:
        for which in ("best", "baseline"):
            choice = layer[which]
            where = f"{layer['layer']} at m={layer['m']}, {choice['kernel']}"
            check(where, choice["time_s"], times.of(layer, layer["m"], choice["kernel"], choice["scheme"]))
    baselines = {}
    for one in answer["whole_model"]:
        m = one["m"]
        baselines[m] = total(one["baseline"]["kernels"], m)
        for which in ("baseline", "best_of_each_layer", "one_scheme"):
            seconds = total(one[which]["kernels"], m)
            check(f"whole model at m={m}, {which}", one[which]["time_s"], seconds)
            check(f"whole model at m={m}, {which}, speed-up", one[which]["speedup"], baselines[m] / seconds)
    for row in [*answer["schemes"], *(answer["schemes_of_all_providers"] or [])]:
        seconds_of = {at["m"]: total(at["kernels"], at["m"]) for at in row["by_m"]}
        for at in row["by_m"]:
            check(f"{row['scheme']} at m={at['m']}", at["time_s"], seconds_of[at["m"]])
        if row["speedup"] is not None:
            check(f"{row['scheme']}, mean speed-up", row["speedup"], mean(answer, baselines, seconds_of))
    for row in answer["schemes"]:
        if row["scheme"] == answer["deploy"]["scheme"]:
            check("what to deploy, speed-up", answer["deploy"]["speedup"], row["speedup"])


def mean(answer: Json, baselines: Mapping[int, float], seconds_of: Mapping[int, float]) -> float:
    """The geometric mean over m; with a mix of m, the ratio of the whole times."""
    if not answer["mix_of_m"]:
        logs = [math.log(baselines[m] / seconds) for m, seconds in seconds_of.items()]
        return math.exp(math.fsum(logs) / len(logs))
    weights = {one["m"]: one["weight"] for one in answer["mix_of_m"]}
    whole, own = (math.fsum(weights[m] * at[m] for m in weights) for at in (baselines, seconds_of))
    return whole / own


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0].startswith("-"):
        print(__doc__)
        return 2
    check = Check()
    try:
        with open(argv[0], encoding="utf-8") as file:
            answer = json.load(file)
        check_answer(answer, argv[1:] or answer["files"], check)
    except (OSError, ValueError) as error:
        print(f"check_recommend_sums.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{check.right} numbers agree, {check.wrong} do not")
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
