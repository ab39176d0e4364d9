"""What all GPUs of a machine together take for a sweep, beside the first alone, and whether they measure the same.

    python3 scripts/compare_gpus.py OUT_DIR --dtype fp8 model_bench --models meta-llama/Llama-3.1-8B-Instruct

The words after OUT_DIR are a sweep's, its options before its command. It runs once on all GPUs, for what compiling
leaves on the disk, then on the first alone, and on all again, every time as a process of its own, whose whole wall time
counts. Then each GPU alone gets the very shapes that it was dealt, in their order, and cells are held against these:
two cards of one name differ by more than two runs of one, and what a shape takes depends a little on those before it,
which memory it finds and how warm the GPU is. By how much, the first GPU's two sweeps alone say. OUT_DIR gets the
records of all sweeps and `devices.jsonl`: the environment, the wall times, and how medians agree.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from w8a8_bench.analysis.pairing import pair
from w8a8_bench.environment import detect
from w8a8_bench.report.compare.compare import compare
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import RUN, to_json
from w8a8_bench.stats import median


def sweep(out: Path, *words: str) -> float:
    """Seconds that a sweep takes from its start to its end, as its user waits for it."""
    print(f"{out.name}: {' '.join(words)}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, "-m", "w8a8_bench", *words, "--out", str(out)]
    with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if ended.returncode:
        sys.exit(f"{out.name} ended with exit code {ended.returncode}: see {log.name}")
    return time.perf_counter() - started


def of_card(results: json_lines.Results, uuid: str) -> json_lines.Results:
    """The comparisons of `results` that one card measured."""
    return replace(results, comparisons=tuple(one for one in results.comparisons if one.uuid == uuid))


def write_shapes(path: Path, results: json_lines.Results) -> None:
    """The shapes of `results`, in the order in which they were measured, with their labels."""
    rows = [{"m": end.shape.m, "n": end.shape.n, "k": end.shape.k, **end.labels} for end in results.ends]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def agreement(alone: json_lines.Results, together: json_lines.Results) -> dict[str, object]:
    """How the cells that both files have agree: verdicts of `compare`, and the largest change of a median."""
    outcome = compare(pair(alone, together), anchored=True)
    logs = [math.log(cell.ratio) for cell in outcome.timed]
    return {
        "shapes": len(outcome.shapes),
        "cells": len(logs),
        "verdicts": dict(Counter(cell.verdict.value for cell in outcome.timed)),
        "other_status": len(outcome.changes),
        "geometric_mean": math.exp(math.fsum(logs) / len(logs)),
        "median_change": math.expm1(median([abs(log) for log in logs])),
        "largest_change": math.expm1(max(map(abs, logs))),
        "cells_within_1_percent": sum(abs(log) <= math.log1p(0.01) for log in logs),
    }


def main() -> None:
    if not any(word.endswith("_bench") for word in sys.argv[2:]):
        sys.exit(__doc__)
    out, words = Path(sys.argv[1]), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    count = detect.gpus()
    if count < 2:
        sys.exit(f"this machine has {count} GPUs: all of them together are no more than one alone")
    walls = {"compiling": sweep(out / "compiling.jsonl", *words, "--devices", "all", "--rigor", "quick")}
    walls["one"] = sweep(out / "one.jsonl", *words, "--devices", "cuda:0")
    walls["all"] = sweep(out / "all.jsonl", *words, "--devices", "all")
    one, together = json_lines.read(out / "one.jsonl"), json_lines.read(out / "all.jsonl")
    with open(out / "devices.jsonl", "w", encoding="utf-8") as file:

        def write(line: Mapping[str, object]) -> None:
            print(json.dumps(line), file=file, flush=True)
            if line["kind"] != RUN:
                print(json.dumps(line), flush=True)

        write(to_json(together.headers[0]))
        write({"kind": "wall_time_s", **walls, "all_of_one": walls["all"] / walls["one"]})
        options = words[: next(place for place, word in enumerate(words) if word.endswith("_bench"))]
        for index, device in enumerate(together.headers[0].devices):
            card = str(device["uuid"])
            dealt, shapes = of_card(together, card), out / f"dealt_{index}.csv"
            write_shapes(shapes, dealt)
            alone = out / f"dealt_{index}.jsonl"
            sweep(alone, *options, "csv_bench", "--csv", str(shapes), "--devices", f"cuda:{index}")
            write({"kind": "all beside each alone", "card": card, **agreement(json_lines.read(alone), dealt)})
            if index == 0:
                again = agreement(one, json_lines.read(alone))
                write({"kind": "one beside itself, after other shapes", "card": card, **again})
    cells = [sorted((r.text, str(r.problem.shape), r.status.value) for r in both.records) for both in (one, together)]
    if cells[0] != cells[1]:
        sys.exit("all GPUs did not measure the cells that one measures")


if __name__ == "__main__":
    main()
