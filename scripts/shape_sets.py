"""Shapes of published models that no tuned table holds: a set to develop with, and one to validate on.

    python3 scripts/shape_sets.py development > scripts/development.csv
    python3 scripts/shape_sets.py validation > scripts/validation.csv

Layers are those of whole models at TP 1, 2, 4 and 8, and as many as `DRAWN` says are drawn of them. No (k, n) is in
both sets or in peers.csv, which the tables were tuned on. The validation set is for judging alone
(`scripts/judge_unseen.py`): who looks at it while tuning has none.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from w8a8_bench.shapes.layers import Layer, TpDoesNotDivide, llama_layers
from w8a8_bench.shapes.models import MODELS

TP_SIZES = (1, 2, 4, 8)
ALIGNED = 16
"""What every kernel needs of n and k."""

DEVELOPMENT = {
    name: MODELS[name]
    for name in (
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-32B-Instruct",
        "Qwen/Qwen2.5-72B-Instruct",
        "meta-llama/Llama-2-13b-hf",
        "meta-llama/Llama-3.3-70B-Instruct",
        "meta-llama/Llama-3.1-405b-hf",
        "mistralai/Mistral-Large-Instruct-2407",
        "CohereLabs/c4ai-command-a-03-2025",
    )
}
VALIDATION = {
    **{
        name: MODELS[name]
        for name in (
            "Qwen/Qwen3-8B",
            "Qwen/Qwen3-14B",
            "Qwen/Qwen3-32B",
            "google/gemma-3-12b-it",
            "google/gemma-3-27b-it",
            "mistralai/Mistral-Small-24B-Instruct-2501",
            "microsoft/phi-4",
            "deepseek-ai/DeepSeek-V3",
        )
    },
    # Attention, and the dense MLP of the first blocks; attention, and the shared expert.
    "zai-org/GLM-4.5": llama_layers(3, 5120, 96, 8, 128, 12288),
    "meta-llama/Llama-4-Scout-17B-16E": llama_layers(48, 5120, 40, 8, 128, 8192),
}
DRAWN = {"development": 32, "validation": 64}
"""How many (k, n) are drawn of each. A look at the validation set is 640 comparisons."""

TOKENS = {
    "development": (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 8192),
    "validation": (1, 4, 16, 48, 96, 192, 384, 768, 1536, 4096),
}


def tuned() -> set[tuple[int, int]]:
    with Path(__file__).with_name("peers.csv").open(newline="") as file:
        return {(int(row["k"]), int(row["n"])) for row in csv.DictReader(file)}


def matrices(models: dict[str, tuple[Layer, ...]], without: Iterable[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """The (k, n) of every layer that counts, with the first model, layer and TP size that has it."""
    left_out = set(without)
    found: dict[tuple[int, int], str] = {}
    for model, layers in models.items():
        for tp in TP_SIZES:
            for layer in layers:
                try:
                    size = layer.sizes(tp)
                except TpDoesNotDivide:
                    continue
                aligned = all(number % ALIGNED == 0 for number in size)
                if layer.count is not None and aligned and size not in left_out:
                    found.setdefault(size, f"{model} {layer.name} TP{tp}")
    return found


def sets() -> dict[str, dict[tuple[int, int], str]]:
    development = matrices(DEVELOPMENT, tuned())
    every = {"development": development, "validation": matrices(VALIDATION, tuned() | set(development))}
    drawn = {name: random.Random(name).sample(sorted(found), DRAWN[name]) for name, found in every.items()}
    return {name: {size: every[name][size] for size in sizes} for name, sizes in drawn.items()}


def main() -> int:
    if sys.argv[1:] not in (["development"], ["validation"]):
        print("shape_sets: expected `development` or `validation`", file=sys.stderr)
        return 2
    (name,) = sys.argv[1:]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("m", "n", "k", "layer"))
    for (k, n), layer in sorted(sets()[name].items(), key=lambda item: (item[0][1] * item[0][0], item[0])):
        writer.writerows((m, n, k, layer) for m in TOKENS[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
