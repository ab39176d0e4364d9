"""Whatever stands in a results file: what it holds, or one line that says why not; nothing that a terminal obeys."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st
from made_results import END, HEADER, RECORD, end, record

from w8a8_bench.analysis.pairing import pair
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.compare import conditions
from w8a8_bench.report.compare.compare import compare
from w8a8_bench.report.compare.render import Compared, render_markdown, render_text
from w8a8_bench.report.table import render
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import to_json

FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"
TIMED = [record(BASELINE, *[1e-5] * 7), record(FP8, *(5e-6 + i * 1e-8 for i in range(7)))]
TWICE = {"cell": BASELINE, "kernel": BASELINE, "samples": {"time_host": [1.01e-5] * 7}}
CLOSED = to_json(end(TIMED)) | {"duplicate": {**TWICE, "blocks": {"time_host": list(range(7))}}}
LINES = [
    to_json(HEADER),
    *map(to_json, TIMED),
    CLOSED,
    to_json(RECORD),
    {**to_json(END), "cells": 1},
]
RIGHT = json.dumps(LINES)
SEEDS = st.integers(0, 2**64)
"""Of what is changed: hypothesis drawing each change itself would take ten times as long."""

NASTY = [
    *(None, True, False, 0, 1, -1, 3, 10**30, 10**400, 0.0, -0.0, 1e-300, 1e300, 0.5, 5e-324, 1e-12, 1e9),
    *(
        "",
        "ok",
        "text",
        "\x1b[31m",
        "\n\r\t\0",
        "\u202e",
        "\ud800",
        "x" * 5000,
        "../../etc/passwd",
        "{0.__class__}%s%n",
    ),
    *(BASELINE, FP8, "cell", "run", "comparison", "inf", "nan", "unsettled", "incorrect", "time_cold_l2"),
    *([], {}, [0], [1e-5] * 7, [[[[]]]], {"": {}}, {"time_host": [1e-5]}, {"\x1b[2J\n": 1}, {"m": 1, "n": 1, "k": 1}),
]


def wrong_lines(rng: random.Random) -> list[object]:
    """The lines of a right file, with a value, a key or a line of them changed here and there."""
    lines: list[object] = json.loads(RIGHT)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        where = rng.randrange(len(lines)) if lines else 0
        action = rng.randrange(20)
        if not lines or action == 0:
            lines.insert(where, rng.choice([*json.loads(RIGHT), *NASTY]))
        elif action == 1:
            del lines[where]
        elif action == 2:
            lines[where], lines[0] = lines[0], lines[where]
        else:
            _change(rng, lines, where)
    return lines


def _change(rng: random.Random, inside, key) -> None:
    """Go down from `inside[key]` to some depth, and there set, delete or add; mostly a value of the same type."""
    while (value := inside[key]) and isinstance(value, dict | list) and rng.random() < 0.85:
        inside, key = value, rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    alike = [nasty for nasty in NASTY if type(nasty) is type(inside[key])]
    nasty = copy.deepcopy(rng.choice(alike if alike and rng.random() < 0.6 else NASTY))
    action = rng.randrange(10)
    if action == 0:
        del inside[key]
    elif action == 1 and isinstance(inside, dict):
        inside[str(nasty)[:40]] = inside.pop(key)
    elif action == 2 and isinstance(inside, list):
        inside.append(nasty)
    else:
        inside[key] = nasty


def made_file(rng: random.Random) -> bytes:
    data = "".join(json.dumps(line) + "\n" for line in wrong_lines(rng)).encode()
    kind, at = rng.randrange(12), rng.randrange(len(data) + 1)
    if kind == 0:
        return rng.randbytes(rng.randrange(80))
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + rng.randbytes(rng.randrange(6)) + data[at + rng.randrange(6) :]
    if kind == 3:
        data = gzip.compress(data, 1)
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.randbytes(rng.randrange(3)) + (data[at:] if rng.random() < 0.5 else b"")
    return data


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    path = tmp_path_factory.mktemp("right") / "right.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return json_lines.read(path)


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def refusal(call: Callable[[], object], start: str) -> str:
    """The error of `call`, which is one harmless line, or nothing."""
    try:
        call()
    except ValueError as error:
        said = str(error)
    else:
        return ""
    assert said.startswith(start) and said.isprintable() and len(said) < len(start) + 500, said
    return said


@given(seed=SEEDS)
def test_a_results_file_is_read_or_refused_in_one_line(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(made_file(random.Random(seed)))
    read = []
    said = refusal(lambda: read.append(json_lines.read(path)), str(path))
    event("refused" if said else "read")
    for results in read:
        assert sum(closed.cells for closed in results.ends) == len(results.records)
        assert "\n" not in "".join(results.warnings)


@given(seed=SEEDS)
def test_what_is_read_is_shown_and_compared_as_harmless_text(tmp_path_factory, right, seed):
    path = tmp_path_factory.getbasetemp() / "shown.jsonl"
    path.write_bytes(made_file(random.Random(seed)))
    assume(not refusal(lambda: json_lines.read(path), str(path)))
    results = json_lines.read(path)
    assert harmless(render(results.records, results.ends))
    for base, new in ((results, right), (right, results)):
        pairing = pair(base, new)
        found = conditions.differences(base, new, pairing)
        if refusal(lambda: compare(pairing, anchored=True), "no cell "):  # noqa: B023
            event("nothing to compare")
            continue
        event("compared")
        outcome = compare(pairing, anchored=conditions.anchored(found))
        compared = Compared("base", "new", base, new, found, outcome)
        assert harmless(render_text(compared, everything=True))
        assert harmless(render_markdown(compared, everything=True))


@given(seed=SEEDS)
def test_a_file_is_gone_on_with_or_refused_in_one_line(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "resumed.jsonl"
    data = made_file(random.Random(seed))
    path.write_bytes(data)

    def found() -> tuple[object, ...]:
        with json_lines.Writer(path, resume=True) as writer:
            writer.cut()
            return writer.headers, writer.done, writer.records

    before = [""]
    if refusal(lambda: before.append(repr(found())), str(path)):
        event("refused")
        assert path.read_bytes() == data
        return
    event("gone on with")
    assert data.startswith(path.read_bytes())
    assert repr(found()) == before[-1]  # an error may be NaN, which equals nothing
