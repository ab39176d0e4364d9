"""The sets of unseen shapes: what is committed is what the script draws, and no shape is where it must not be."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    return importlib.import_module("shape_sets")


def rows(name: str) -> list[tuple[int, int, int, str]]:
    with (SCRIPTS / f"{name}.csv").open(newline="") as file:
        return [(int(row["m"]), int(row["n"]), int(row["k"]), row["layer"]) for row in csv.DictReader(file)]


def test_the_committed_sets_are_those_that_the_script_draws(script):
    for name, drawn in script.sets().items():
        expected = {(m, n, k, layer) for (k, n), layer in drawn.items() for m in script.TOKENS[name]}
        assert set(rows(name)) == expected
        assert len(rows(name)) == len(expected)


def test_no_weight_is_in_two_sets_or_in_a_tuned_table(script):
    development, validation = ({(k, n) for _, n, k, _ in rows(name)} for name in ("development", "validation"))
    assert not development & validation
    assert not (development | validation) & script.tuned()
    assert len(validation) >= 60
    assert {m for m, *_ in rows("validation")} == {1, 4, 16, 48, 96, 192, 384, 768, 1536, 4096}
