"""Records survive the way to JSON and back, and what is wrong with a foreign one is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from made_results import END, HEADER, RECORD

from w8a8_bench.results.record import SCHEMA, ComparisonEnd, Record, RunHeader

SINCE_SCHEMA_2 = {
    "run": {"devices": ()},
    "cell": {"processes": (), "rotation": {}, "device": "", "scheme_sqnr_db": {}, "roofline": {}},
    "comparison": {"duplicate": {}, "machine": {}, "memory_bytes": None},
}
"""Fields that older files lack, and what they are then."""


def through_json(item):
    return type(item).from_json(json.loads(json.dumps(item.to_json(), allow_nan=False)))


@pytest.mark.parametrize("item", [HEADER, RECORD, END], ids=["run", "cell", "comparison"])
def test_nothing_is_lost_on_the_way_through_json(item) -> None:
    assert through_json(item) == item
    assert item.to_json()["kind"] == item.KIND


def test_a_cell_without_an_answer_keeps_its_reason() -> None:
    bare = replace(
        RECORD, error=None, samples={}, blocks={}, launches_per_sample={}, clock_mhz={}, flags=(), reason="k=72: no"
    )
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
        if name in SINCE_SCHEMA_2.get(item.KIND, {}):
            assert getattr(type(item).from_json(lacking), name) == SINCE_SCHEMA_2[item.KIND][name]
        else:
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
        ({"samples": {"time_hot_l2": [1.0]}}, "samples.time_hot_l2: 1 samples of 0 blocks"),
        ({"samples": {"time_host": [1.0, 10**400]}}, "samples.time_host[1] 1" + "0" * 56 + "...: expected a whole"),
        ({"scheme_sqnr_db": {"normal": "31"}}, "scheme_sqnr_db.normal '31': expected a whole number or a number"),
        ({"scheme_sqnr_db": {"normal": math.inf}}, "scheme_sqnr_db.normal inf: expected a whole number or a number"),
        ({"scheme_sqnr_db": {"normal": None}}, "scheme_sqnr_db.normal None: expected a whole number or a number"),
        ({"scheme_sqnr_db": {"normal": 10**400}}, "scheme_sqnr_db.normal 1"),
        ({"roofline": {"time_host": 5}}, "roofline.time_host 5: expected an object"),
        ({"roofline": {"time_host": {"of_peak": "5"}}}, "roofline.time_host.of_peak '5': expected a whole number"),
        ({"blocks": {"time_host": [0, 1, 2]}}, "samples.time_host: 2 samples of 3 blocks"),
        ({"blocks": {"time_host": [0, "1"]}}, "blocks.time_host[1] '1': expected a whole number"),
        ({"blocks": {"time_host": [1, 1]}}, "blocks.time_host: a block comes twice"),
        ({"blocks": {"time_host": [0, -1]}}, "blocks: expected numbers of at least 0"),
        ({"blocks": {"time_host": [0, True]}}, "blocks.time_host[1] True: expected a whole number"),
        ({"blocks": {"time_host": [0, 2]}}, "processes: 2 entries and a block number 2"),
        ({"processes": [0, "1"]}, "processes[1] '1': expected a whole number"),
        ({"clock_mhz": {"time_host": [1980.0]}}, "clock_mhz.time_host: 1 clocks of 2 samples"),
        ({"clock_mhz": {"time_hot_l2": [1980.0]}}, "clock_mhz.time_hot_l2: 1 clocks of 0 samples"),
        ({"clock_mhz": {"time_host": [1980.0, 0]}}, "clock_mhz.time_host[1] 0.0: expected 1e-12 to 1e+09 MHz"),
        ({"rotation": {"sets": 1.5}}, "rotation.sets 1.5: expected a whole number"),
        ({"rotation": {"sets": -1}}, "rotation.sets -1: expected at least 0"),
        ({"samples": {"time_host": [1.0, "2"]}}, "samples.time_host[1] '2': expected a whole number or a number"),
        ({"samples": {"time_host": [1.0, 0.0]}}, "samples.time_host[1] 0.0: expected 1e-12 to 1e+09 seconds"),
        ({"samples": {"time_host": [1.0, 1e-200]}}, "samples.time_host[1] 1e-200: expected 1e-12"),
        ({"samples": {"time_host": [1.0, 10**20]}}, "samples.time_host[1] 1e+20: expected 1e-12"),
        ({"samples": {"time_host": [1.0, math.inf]}}, "samples.time_host[1] inf"),
        ({"samples": {"time_host": [1.0, 10**400]}}, "samples.time_host[1] 1000"),
        ({"error": {"relative": 10**400, "worst": 0}}, "error.relative 1"),
        ({"problem": {**RECORD.problem.to_json(), "m": True}}, "problem: m=True"),
        ({"problem": {**RECORD.problem.to_json(), "bias": 0}}, "problem: bias 0: expected true or false"),
        ({"problem": {**RECORD.problem.to_json(), "m": [1]}}, "problem.m: expected no list"),
        ({"status": "fine"}, "status 'fine': expected one of ok, unsupported"),
        ({"kernel": 5}, "kernel 5: expected text"),
        ({"flags": ["a", 1]}, "flags[1] 1: expected text"),
        ({"scheme_sqnr_db": {"normal": "37"}}, "scheme_sqnr_db.normal '37': expected a whole number or a number"),
        ({"scheme_sqnr_db": {"normal": math.inf}}, "scheme_sqnr_db.normal inf"),
        ({"labels": {"tp": 1.5}}, "labels.tp 1.5"),
        ({"error": {"relative": 0.1}}, "error.worst is missing"),
        ({"error": {"relative": 0.1, "worst": 0.5, "rows": "32"}}, "error.rows '32': expected a whole number"),
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


def test_an_error_of_sampled_rows_says_how_many() -> None:
    sampled = replace(RECORD, error={"relative": 0.001, "worst": 0.5, "rows": 32})
    assert through_json(sampled) == sampled
    of_all = {"relative": 0.001, "worst": 0.5}
    assert Record.from_json({**RECORD.to_json(), "error": of_all}).error == of_all


def test_fields_of_later_versions_are_passed_over() -> None:
    for item in (HEADER, RECORD, END):
        assert type(item).from_json({**item.to_json(), "new": 1}) == item


def test_a_newer_schema_says_to_upgrade_before_anything_else() -> None:
    with pytest.raises(ValueError, match=r"^schema 9 is newer than this version reads \(2\): upgrade w8a8-bench$"):
        RunHeader.from_json({"kind": "run", "schema": 9})
    with pytest.raises(ValueError, match="schema 0"):
        RunHeader.from_json({**HEADER.to_json(), "schema": 0})
    assert HEADER.schema == SCHEMA == 2


def test_a_size_of_an_ended_comparison_is_checked() -> None:
    with pytest.raises(ValueError, match=r"shape\.k is missing"):
        ComparisonEnd.from_json({**END.to_json(), "shape": {"m": 1, "n": 1}})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"duplicate": {"samples": {}, "blocks": {}}}, "kernel is missing"),
        ({"duplicate": {**END.duplicate, "blocks": {"time_host": [0]}}}, "samples.time_host: 2 samples of 1 blocks"),
        ({"duplicate": {**END.duplicate, "samples": {"time_host": [0.0, 1.0]}}}, "samples.time_host[0] 0.0"),
        ({"memory_bytes": 1.5}, "memory_bytes 1.5: expected a whole number or null"),
        ({"machine": None}, "machine None: expected an object"),
    ],
)
def test_a_wrong_value_at_the_end_of_a_comparison_is_shown(change, expected) -> None:
    with pytest.raises(ValueError) as caught:
        ComparisonEnd.from_json(json.loads(json.dumps({**END.to_json(), **change})))
    assert str(caught.value).startswith(expected)


def test_the_duplicates_samples_come_with_their_blocks() -> None:
    assert through_json(END).duplicate_samples("time_host") == ((1.25e-5, 1.5e-5), (0, 1))
    assert END.duplicate_samples("time_hot_l2") is None
    assert replace(END, duplicate={}).duplicate_samples("time_host") is None


def test_each_sample_is_of_the_process_that_its_block_belongs_to() -> None:
    measures = {"time_host": (1.0, 2.0, 3.0), "time_hot_l2": (4.0,)}
    blocks = {"time_host": (0, 2, 3), "time_hot_l2": (3,)}
    several = replace(RECORD, samples=measures, blocks=blocks, processes=(0, 0, 1, 1), clock_mhz={})
    assert through_json(several).groups("time_host") == (0, 1, 1)
    assert through_json(several).groups("time_hot_l2") == (1,)
    assert replace(several, processes=()).groups("time_host") == (0, 0, 0)


def schema_1(**changes: object) -> dict[str, object]:
    """A cell as version 0.1 wrote it: one list of blocks for all measures, and no clock."""
    data = RECORD.to_json()
    del data["processes"], data["rotation"]
    samples = {"time_host": [1.25e-5, 1.5e-5], "time_host_quant": [1e-6, 2e-6]}
    return {**data, "samples": samples, "blocks": [0, 1], "clock_mhz": None, **changes}


def test_a_cell_of_schema_1_reads_with_its_blocks_for_every_measure() -> None:
    old = Record.from_json(schema_1())
    assert old.samples == {"time_host": (1.25e-5, 1.5e-5), "time_host_quant": (1e-6, 2e-6)}
    assert old.blocks == {"time_host": (0, 1), "time_host_quant": (0, 1)}
    assert (old.clock_mhz, old.processes, old.rotation) == ({}, (), {})
    assert through_json(old) == old, "it is written as schema 2"
    assert Record.from_json(schema_1(samples={}, blocks=[])).blocks == {}
    with pytest.raises(ValueError, match=r"^samples\.time_host: 2 samples of 3 blocks"):
        Record.from_json(schema_1(blocks=[0, 1, 2]))
    with pytest.raises(ValueError, match=r"^blocks\[1\] '1'"):
        Record.from_json(schema_1(blocks=[0, "1"]))


def test_an_end_of_schema_1_reads_without_what_it_lacks() -> None:
    data = {name: END.to_json()[name] for name in ("kind", "index", "shape", "labels", "seconds", "blocks", "cells")}
    assert ComparisonEnd.from_json(data) == replace(END, duplicate={}, machine={}, memory_bytes=None)
    assert RunHeader.from_json({**HEADER.to_json(), "schema": 1}).schema == 1
