"""What a history is shown as: text, Markdown, JSON, JUnit and a page, all with the same numbers."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest
from parsed_page import ParsedPage
from simulated_histories import KERNEL, Planted, cell, run_facts, simulate

from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.history.export import render_json, render_junit
from w8a8_bench.report.history.page import render_html
from w8a8_bench.report.history.render import MOST_ROWS, render_markdown, render_text, seconds_of
from w8a8_bench.report.history.series import make_history, percent
from w8a8_bench.results.history_index import Times

THRESHOLD = 0.01
SLOWER = {0: Planted(at=40, step=0.05), 1: Planted(at=30, step=-0.04)}


@pytest.fixture(scope="module")
def history():
    broken = Times(run_facts(60), cell(2), None, 0.0, "crashed", "a <signal> & more")
    return make_history([*simulate(SLOWER, 3, seed=5), broken])


def test_text_says_what_is_worse_what_is_broken_and_when_it_changed(history):
    text = render_text(history, THRESHOLD)
    assert text.startswith("61 runs from 2026-01-01 to 2026-01-03, NVIDIA H200: 11 series, ")
    assert "worse: of 11 series 1 slower than their best lasting level by more than 1%" in text
    assert "and 1 that can't be timed any more" in " ".join(text.split())
    slow = history.worse(THRESHOLD)[0]
    assert f"{percent(slow.worse_by[0])} (" in text
    assert f"{KERNEL}  m=48 n=4096 k=4096" in text
    assert "crashed" in text
    assert "changed with the run of 2026-01-02 16:00 (run40.jsonl)" in text
    assert "Also different: code 000000000 to 000000000" in text
    assert max(map(len, text.splitlines())) <= 140


def test_markdown_has_the_same_numbers(history):
    text, made = render_text(history, THRESHOLD), render_markdown(history, THRESHOLD)
    numbers = re.compile(r"[+-]?\d+\.\d+%?")
    assert numbers.findall(text) == numbers.findall(made.replace("\\", ""))
    assert "| --- |" in made
    assert "a &#60;signal&#62;" in made


def test_long_tables_are_cut_unless_all_is_asked_for():
    every = {number: Planted(at=30, step=0.05) for number in range(30)}
    history = make_history(simulate(every, 30, seed=6))
    assert len(history.worse(THRESHOLD)) == 30
    assert f"and {30 - MOST_ROWS} more, which --all shows" in render_text(history, THRESHOLD)
    assert "which --all shows" not in render_text(history, THRESHOLD, everything=True)


def test_nothing_worse_is_one_line():
    text = render_text(make_history(simulate({}, 2, seed=9)), THRESHOLD)
    assert "no series is slower than its best lasting level by more than 1%" in text
    text = render_text(make_history(simulate({}, 2, seed=9, runs=3)), THRESHOLD)
    assert "too few runs to judge: a series needs more than 3" in text


def test_what_the_machine_did_is_told_in_every_output():
    times = simulate({}, 2, seed=3)
    runs = list(dict.fromkeys(id(one.run) for one in times))
    slower = [
        Times(one.run, one.cell, one.seconds * (1.06 if runs.index(id(one.run)) >= 30 else 1.0), 0.0, "ok", "")
        for one in times
    ]
    history = make_history(slower)
    assert not history.worse(THRESHOLD)
    said = f"the machine: all baselines of {history.runs[0].device} {history.machine_changes[-1][1].percent}"
    assert said in " ".join(render_text(history, THRESHOLD).split())
    assert said in render_html(history, THRESHOLD)
    assert json.loads(render_json(history, THRESHOLD))["machine"][-1]["ratio"] > 1.01


def test_json_holds_all_that_was_found(history):
    data = json.loads(render_json(history, THRESHOLD))
    assert (data["kind"], data["version"], data["threshold"]) == ("history", 1, THRESHOLD)
    assert len(data["runs"]) == len(history.runs)
    by_m = {one["problem"]["m"]: one for one in data["series"] if one["kernel"] == KERNEL}
    assert [by_m[m]["verdict"] for m in (16, 32, 48)] == ["worse", "steady", "broken"]
    one, made = by_m[16], history.worse(THRESHOLD)[0]
    assert one["newest_over_best"] == pytest.approx(math.exp(made.worse_by[0]))
    assert len(one["points"]) == len(made.points)
    assert one["levels"][-1]["last_run"] == one["points"][-1]["run"]
    (change,) = one["changes"]
    assert data["runs"][change["after"]]["file"] == made.changes[0].after.file
    assert change["interval"][0] < change["ratio"] < change["interval"][1]


def test_junit_fails_what_a_gate_would_fail(history):
    root = ElementTree.fromstring(render_junit(history, THRESHOLD))
    (suite,) = root.findall("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        KERNEL,
        "3",
        "2",
        "0",
    )
    said = [failure.get("message") or "" for failure in suite.iter("failure")]
    assert "over its best lasting level, since the run of 2026-01-02 16:00 (run40.jsonl)" in said[0]
    assert said[1] == "crashed: a <signal> & more"
    few = make_history([Times(run_facts(0), cell(0), 1e-5, 0.0, "ok", "")])
    assert "1 runs are too few" in render_junit(few, THRESHOLD)


def test_the_page_has_a_plot_for_every_series_and_no_script(history):
    made = render_html(history, THRESHOLD)
    page = ParsedPage(made)
    assert page.seen.count("details") == len(history.series)
    assert page.seen.count("svg") == 2 * len(history.series)
    assert "script" not in page.seen
    assert "a <signal> & more" not in made
    for one in history.series:
        assert seconds_of(one, one.newest.value) in page.text
    assert percent(history.worse(THRESHOLD)[0].worse_by[0]) in page.text
    assert page.text.index(f"{KERNEL}m=48") < page.text.index(f"{KERNEL}m=16") < page.text.index(BASELINE)


def test_what_the_baselines_did_is_no_change_of_its_own(history):
    assert any(one.changes for one in history.series if one.is_baseline)
    assert not [one for _, changes in history.by_run() for one, _ in changes if one.is_baseline]
