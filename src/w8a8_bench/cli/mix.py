"""A mix of m: how often a forward pass has m tokens, as `--m 16:0.7 256:0.3` or from a file (`--weights`)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path


def of_words(words: Sequence[str]) -> dict[int, float]:
    """From `M:WEIGHT`, or `M` with the weight 1. Raises ValueError for anything else."""
    return _mix("--m", (word.partition(":")[::2] for word in words))


def of_file(path: Path) -> dict[int, float]:
    """From a CSV file with columns m and weight, or from JSON: an object of m to weight, or objects with m and weight.

    Raises ValueError with one line, which names the file, for one that can't be read or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--weights {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--weights {path} is no text") from None
    try:
        data = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
        rows = data.items() if isinstance(data, dict) else [(row["m"], row["weight"]) for row in data]
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error):
        raise ValueError(
            f'--weights {path}: expected CSV with columns m and weight, or JSON as {{"16": 0.7, "256": 0.3}}'
        ) from None
    return _mix(f"--weights {path}", rows)


def _mix(where: str, rows: Iterable[tuple[object, object]]) -> dict[int, float]:
    mix: dict[int, float] = {}
    for m_text, weight_text in rows:
        try:
            m, weight = int(str(m_text)), float(1 if weight_text == "" else str(weight_text))
        except ValueError:
            raise ValueError(
                f"{where}: {m_text}:{weight_text}: expected a whole number m and its weight, as 16:0.7"
            ) from None
        if m < 1 or not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"{where}: {m}:{weight:g}: expected m of at least 1 and a weight above 0")
        if m in mix:
            raise ValueError(f"{where}: m={m} is there twice")
        mix[m] = weight
    if not mix:
        raise ValueError(f"{where} has no m")
    return dict(sorted(mix.items()))
