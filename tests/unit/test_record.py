"""Records survive the way to JSON and back, and what is wrong with a foreign one is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from made_results import END, HEADER, RECORD

from w8a8_bench.record import SCHEMA, ComparisonEnd, Record, RunHeader


def through_json(item):
    return type(item).from_json(json.loads(json.dumps(item.to_json(), allow_nan=False)))


@pytest.mark.parametrize("item", [HEADER, RECORD, END], ids=["run", "cell", "comparison"])
def test_nothing_is_lost_on_the_way_through_json(item) -> None:
    assert through_json(item) == item
    assert item.to_json()["kind"] == item.KIND


def test_a_cell_without_an_answer_keeps_its_reason() -> None:
    bare = replace(RECORD, error=None, samples={}, blocks=(), launches_per_sample={}, flags=(), reason="k=72: no")
    assert through_json(bare) == bare


def test_infinite_and_nan_errors_are_json_and_come_back() -> None:
    back = through_json(replace(RECORD, error={"relative": math.inf, "worst": math.nan}))
    assert back.error["relative"] == math.inf
    assert math.isnan(back.error["worst"])


def test_a_config_of_any_objects_becomes_plain() -> None:
    config = {"tile": (128, 64), "dtype": complex, "waste": math.nan, "deep": {1: [None, True]}}
    plain = through_json(replace(RECORD, config=config)).config
    assert plain == {"tile": [128, 64], "dtype": "<class 'complex'>", "waste": "nan", "deep": {"1": [None, True]}}


@pytest.mark.parametrize("item", [HEADER, RECORD, END], ids=["run", "cell", "comparison"])
def test_every_missing_or_mistyped_field_is_named(item) -> None:
    for name, value in item.to_json().items():
        if name == "kind":
            continue
        lacking = item.to_json()
        del lacking[name]
        with pytest.raises(ValueError, match=f"^{name} is missing"):
            type(item).from_json(lacking)
        wrong = "text" if isinstance(value, dict) else {}
        with pytest.raises(ValueError, match=f"^{name} "):
            type(item).from_json({**item.to_json(), name: wrong})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"comparison": True}, "comparison True: expected a whole number"),
        ({"comparison": -1}, "comparison -1: expected at least 0"),
        ({"samples": {"time_host": [1.0]}}, "samples.time_host: 1 samples of 2 blocks"),
        ({"samples": {"time_host": [1.0, "2"]}}, "samples.time_host[1] '2': expected a whole number or a number"),
        ({"samples": {"time_host": [1.0, 0.0]}}, "samples.time_host[1] 0.0: expected seconds above zero"),
        ({"samples": {"time_host": [1.0, math.inf]}}, "samples.time_host[1] inf"),
        ({"status": "fine"}, "status 'fine': expected one of ok, unsupported"),
        ({"kernel": "mine"}, "kernel: kernel name 'mine'"),
        ({"flags": ["a", 1]}, "flags[1] 1: expected text"),
        ({"labels": {"tp": 1.5}}, "labels.tp 1.5"),
        ({"error": {"relative": 0.1}}, "error.worst is missing"),
        ({"problem": {}}, "problem.scheme is missing"),
        ({"problem": {**RECORD.problem.to_json(), "m": 0}}, "problem: m=0"),
        ({"reason": "x" * 5, "provider": ["y" * 500]}, "provider ['yyy"),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(change, expected) -> None:
    with pytest.raises(ValueError) as caught:
        Record.from_json({**RECORD.to_json(), **change})
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value)) < 300


def test_fields_of_later_versions_are_passed_over() -> None:
    for item in (HEADER, RECORD, END):
        assert type(item).from_json({**item.to_json(), "new": 1}) == item


def test_a_newer_schema_says_to_upgrade_before_anything_else() -> None:
    with pytest.raises(ValueError, match=r"^schema 9 is newer than this version reads \(1\): upgrade w8a8-bench$"):
        RunHeader.from_json({"kind": "run", "schema": 9})
    with pytest.raises(ValueError, match="schema 0"):
        RunHeader.from_json({**HEADER.to_json(), "schema": 0})
    assert HEADER.schema == SCHEMA == 1


def test_a_size_of_an_ended_comparison_is_checked() -> None:
    with pytest.raises(ValueError, match=r"shape\.k is missing"):
        ComparisonEnd.from_json({**END.to_json(), "shape": {"m": 1, "n": 1}})
