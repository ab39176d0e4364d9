"""Records survive the way to JSON and back, and what is wrong with a foreign one is named."""

from __future__ import annotations

import json
import math

import pytest
from copies import replace
from made_results import END, HEADER, RECORD

from w8a8_bench.results.decoding import decode, share
from w8a8_bench.results.record import SCHEMA, to_json

MAY_BE_MISSING = {
    "run": {"devices": ()},
    "cell": {"processes": (), "rotation": {}, "scheme_sqnr_db": {}, "device": ""},
    "comparison": {"duplicate": {}, "machine": {}, "memory_bytes": None},
}
"""Fields that older files lack, and what they are then."""


def read(data: dict[str, object], schema: int = SCHEMA):
    return decode(json.dumps(data).encode(), schema)


CELL, CLOSE = to_json(RECORD), to_json(END)
PROBLEM = CELL["problem"]


def through_json(item):
    return read(to_json(item))


@pytest.mark.parametrize("item", [HEADER, RECORD, END], ids=["run", "cell", "comparison"])
def test_nothing_is_lost_on_the_way_through_json(item) -> None:
    assert through_json(item) == item
    assert next(iter(to_json(item))) == "kind", "a torn header is known by how it begins"


def test_a_cell_without_an_answer_keeps_its_reason() -> None:
    bare = replace(
        RECORD, error=None, samples={}, blocks={}, launches_per_sample={}, clock_mhz={}, flags=(), reason="k=72: no"
    )
    assert through_json(bare) == bare


def test_a_config_of_any_objects_becomes_plain() -> None:
    config = {"tile": (128, 64), "dtype": complex, "waste": math.nan, "deep": {1: [None, True]}}
    plain = through_json(replace(RECORD, config=config)).config
    assert plain == {"tile": [128, 64], "dtype": "<class 'complex'>", "waste": "nan", "deep": {"1": [None, True]}}


@pytest.mark.parametrize("item", [HEADER, RECORD, END], ids=["run", "cell", "comparison"])
def test_every_missing_or_mistyped_field_is_named(item) -> None:
    data = to_json(item)
    for name, value in data.items():
        if name == "kind":
            continue
        lacking = {other: data[other] for other in data if other != name}
        if name in MAY_BE_MISSING[data["kind"]]:
            assert getattr(read(lacking), name) == MAY_BE_MISSING[data["kind"]][name]
        else:
            with pytest.raises(ValueError, match=f"^{name} is missing"):
                read(lacking)
        wrong = "text" if isinstance(value, dict) else {}
        with pytest.raises(ValueError, match=f"^{name}( 'text')?: expected "):
            read({**data, name: wrong})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"comparison": True}, "comparison True: expected a whole number, got true or false"),
        ({"comparison": -1}, "comparison -1: expected a whole number >= 0"),
        ({"comparison": 1.5}, "comparison 1.5: expected a whole number, got a number"),
        ({"comparison": 10**40}, "comparison 10000000000000000000"),
        ({"samples": {"time_host": [1.0]}}, "samples.time_host: 1 samples of 2 blocks"),
        ({"samples": {"time_hot_l2": [1.0]}}, "samples.time_hot_l2: 1 samples of 0 blocks"),
        ({"samples": {"time_host": [1.0, "2"]}}, "samples.time_host[1] '2': expected a number, got text"),
        (
            {"samples": {"other": [], "time_host": [1.0, True]}},
            "samples.time_host[1] True: expected a number",
        ),
        ({"samples": {"time_host": [1.0, 0.0]}}, "samples.time_host[1] 0.0: expected a number >= 1e-12"),
        ({"samples": {"time_host": [1.0, 1e-200]}}, "samples.time_host[1] 1e-200: expected a number >= 1e-12"),
        (
            {"samples": {"time_host": [1.0, 10**20]}},
            "samples.time_host[1] 100000000000000000000: expected",
        ),
        ({"samples": {"time_host": [1.0, 10**400]}}, "samples.time_host[1] 1" + "0" * 56 + "...: number out of range"),
        ({"samples": {"time_host": [1.0, math.inf]}}, "no JSON: "),
        ({"samples": {"time_host": [1.0, math.nan]}}, "no JSON: "),
        ({"samples": {"time_host": 5}}, "samples.time_host 5: expected a list, got a whole number"),
        ({"scheme_sqnr_db": {"normal": "31"}}, "scheme_sqnr_db.normal '31': expected a number, got text"),
        ({"scheme_sqnr_db": {"normal": None}}, "scheme_sqnr_db.normal None: expected a number, got null"),
        ({"scheme_sqnr_db": {"normal": 10**400}}, "scheme_sqnr_db.normal 1"),
        ({"blocks": {"time_host": [0, 1, 2]}}, "samples.time_host: 2 samples of 3 blocks"),
        ({"blocks": {"time_host": [0, "1"]}}, "blocks.time_host[1] '1': expected a whole number, got text"),
        ({"blocks": {"time_host": [1, 1]}}, "blocks.time_host: a block comes twice"),
        ({"blocks": {"time_host": [0, -1]}}, "blocks.time_host[1] -1: expected a whole number >= 0"),
        ({"blocks": {"time_host": [0, True]}}, "blocks.time_host[1] True: expected a whole number"),
        ({"blocks": {"time_host": [0, 2]}}, "processes: 2 entries and a block number 2"),
        ({"blocks": [0, 1]}, "blocks: expected an object, got a list"),
        ({"processes": [0, "1"]}, "processes[1] '1': expected a whole number, got text"),
        ({"clock_mhz": {"time_host": [1980.0]}}, "clock_mhz.time_host: 1 clocks of 2 samples"),
        ({"clock_mhz": {"time_hot_l2": [1980.0]}}, "clock_mhz.time_hot_l2: 1 clocks of 0 samples"),
        ({"clock_mhz": {"time_host": [1980.0, 0]}}, "clock_mhz.time_host[1] 0: expected a number >= 1e-12"),
        ({"rotation": {"sets": 1.5}}, "rotation.sets 1.5: expected a whole number, got a number"),
        ({"rotation": {"sets": -1}}, "rotation.sets -1: expected a whole number >= 0"),
        ({"error": {"relative": 10**400, "worst": 0}}, "error.relative 1"),
        ({"error": {"relative": 0.1}}, "error.worst is missing"),
        (
            {"error": {"relative": 0.1, "worst": 0.5, "rows": "32"}},
            "error.rows '32': expected a whole number",
        ),
        ({"error": 5}, "error 5: expected an object or null, got a whole number"),
        ({"problem": {**PROBLEM, "m": True}}, "problem.m True: expected a whole number"),
        ({"problem": {**PROBLEM, "bias": 0}}, "problem.bias 0: expected true or false, got a whole number"),
        ({"problem": {**PROBLEM, "m": [1]}}, "problem.m: expected a whole number, got a list"),
        ({"problem": {**PROBLEM, "m": 0}}, "problem: m=0: expected at least 1"),
        ({"problem": {**PROBLEM, "scheme": "x"}}, "problem: scheme 'x': expected one of tensor-w-tensor-a, "),
        ({"problem": {**PROBLEM, "format": "int4"}}, "problem.format 'int4': expected one of int8, fp8, bf16"),
        ({"problem": {}}, "problem.m is missing"),
        ({"problem": {**PROBLEM, "out": "int4"}}, "problem.out 'int4': expected one of int8"),
        ({"problem": {**PROBLEM, "azp": "one"}}, "problem.azp 'one': expected one of none, tensor"),
        ({"problem": {**PROBLEM, "activations": "x"}}, "problem.activations 'x': expected one of prequantized"),
        ({"status": "fine"}, "status 'fine': expected one of ok, unsupported"),
        ({"kernel": 5}, "kernel 5: expected text, got a whole number"),
        ({"flags": ["a", 1]}, "flags[1] 1: expected text, got a whole number"),
        ({"labels": {"tp": 1.5}}, "labels.tp 1.5: expected a whole number or text, got a number"),
        ({"labels": {"tp": 10**40}}, "labels.tp 1000"),
        ({"reason": ["x" * 500]}, "reason: expected text, got a list"),
        ({"reason": "x" * 500, "provider": 7}, "provider 7: expected text"),
        ({"kind": "odd"}, "kind 'odd': expected run, cell or comparison"),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(change, expected) -> None:
    with pytest.raises(ValueError) as caught:
        decode(json.dumps({**CELL, **change}).encode())
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value)) < 300


def test_an_error_of_sampled_rows_says_how_many() -> None:
    sampled = replace(RECORD, error={"relative": 0.001, "worst": 0.5, "rows": 32})
    assert through_json(sampled) == sampled
    of_all = {"relative": 0.001, "worst": 0.5}
    assert read({**CELL, "error": of_all}).error == of_all


def test_fields_of_later_versions_are_passed_over() -> None:
    for item in (HEADER, RECORD, END):
        assert read({**to_json(item), "new": {"deep": [1]}}) == item


def test_a_newer_schema_says_to_upgrade_before_anything_else() -> None:
    with pytest.raises(ValueError, match=r"^schema 9 is newer than this version reads \(3\): upgrade w8a8-bench$"):
        read({"kind": "run", "schema": 9})
    with pytest.raises(ValueError, match="schema 0"):
        read({**to_json(HEADER), "schema": 0})
    assert HEADER.schema == SCHEMA == 3


def test_a_size_of_an_ended_comparison_is_checked() -> None:
    with pytest.raises(ValueError, match=r"shape\.k is missing"):
        read({**CLOSE, "shape": {"m": 1, "n": 1}})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"duplicate": {"samples": {}, "blocks": {}}}, "duplicate.kernel is missing"),
        (
            {"duplicate": {**END.duplicate, "blocks": {"time_host": [0]}}},
            "duplicate.samples.time_host: 2 samples of 1 blocks",
        ),
        (
            {"duplicate": {**END.duplicate, "samples": {"time_host": [0.0, 1.0]}}},
            "duplicate.samples.time_host[0] 0.0: expected a number >= 1e-12",
        ),
        ({"memory_bytes": 1.5}, "memory_bytes 1.5: expected a whole number or null, got a number"),
        ({"machine": None}, "machine None: expected an object, got null"),
        ({"shape": {"m": 0, "n": 1, "k": 1}}, "shape: m=0: expected at least 1"),
    ],
)
def test_a_wrong_value_at_the_end_of_a_comparison_is_shown(change, expected) -> None:
    with pytest.raises(ValueError) as caught:
        read(json.loads(json.dumps({**CLOSE, **change})))
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
    samples = {"time_host": [1.25e-5, 1.5e-5], "time_host_quant": [1e-6, 2e-6]}
    lacking = {name: CELL[name] for name in CELL if name not in ("processes", "rotation")}
    return {**lacking, "samples": samples, "blocks": [0, 1], "clock_mhz": None, **changes}


def test_a_cell_of_schema_1_reads_with_its_blocks_for_every_measure() -> None:
    old = read(schema_1(), 1)
    assert old.samples == {"time_host": (1.25e-5, 1.5e-5), "time_host_quant": (1e-6, 2e-6)}
    assert old.blocks == {"time_host": (0, 1), "time_host_quant": (0, 1)}
    assert (old.clock_mhz, old.processes, old.rotation) == ({}, (), {})
    assert through_json(old) == old, "it is written as schema 3"
    assert read(schema_1(samples={}, blocks=[]), 1).blocks == {}
    with pytest.raises(ValueError, match=r"^samples\.time_host: 2 samples of 3 blocks"):
        read(schema_1(blocks=[0, 1, 2]), 1)
    with pytest.raises(ValueError, match=r"^blocks\.time_host\[1\] '1'"):
        read(schema_1(blocks=[0, "1"]), 1)


def test_the_roofline_that_a_record_of_schema_2_holds_is_passed_over() -> None:
    assert read({**CELL, "roofline": {"time_host": {"of_peak": 41.5}}}, 2) == RECORD
    assert "roofline" not in CELL


def test_an_end_of_schema_1_reads_without_what_it_lacks() -> None:
    data = {name: CLOSE[name] for name in ("kind", "index", "shape", "labels", "seconds", "blocks", "cells")}
    assert read(data, 1) == replace(END, duplicate={}, machine={}, memory_bytes=None)
    assert read({**to_json(HEADER), "schema": 1}).schema == 1


def test_samples_and_clocks_are_written_with_five_significant_digits_and_nothing_else_is() -> None:
    long = replace(
        RECORD,
        samples={"time_host": (1.2345678e-5, 0.123454999)},
        clock_mhz={"time_host": (1979.9999, 1234.5678)},
        scheme_sqnr_db={"normal": 37.123456789},
    )
    written = to_json(long)
    assert written["samples"] == {"time_host": [1.2346e-5, 0.12345]}
    assert written["clock_mhz"] == {"time_host": [1980.0, 1234.6]}
    assert written["scheme_sqnr_db"] == {"normal": 37.123456789}
    assert to_json(through_json(long)) == written
    twice = {**END.duplicate, "samples": {"time_host": (1.2345678e-5, 1.5e-5)}}
    assert to_json(replace(END, duplicate=twice))["duplicate"]["samples"] == {"time_host": [1.2346e-5, 1.5e-5]}


def test_text_that_is_no_unicode_is_written_and_read() -> None:
    odd = replace(RECORD, reason="a file named \udcff", config={"\udcff": "\udcff"})
    assert through_json(odd).config == {"\\udcff": "\\udcff"}


def test_what_a_record_repeats_is_held_once() -> None:
    one, two = through_json(RECORD), through_json(replace(RECORD, kernel="x", labels={"layer": "other"}))
    share(one, None)
    share(two, one)
    assert two.problem is one.problem and two.blocks is one.blocks and two.rotation is one.rotation
    assert two == replace(RECORD, kernel="x", labels={"layer": "other"})
