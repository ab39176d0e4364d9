"""`history`: what it reads and writes, its exit codes, and bad input in one line."""

from __future__ import annotations

import json
import math
import random

import pytest
from copies import replace
from made_results import HEADER, end, record

from w8a8_bench.cli import main
from w8a8_bench.results import json_lines
from w8a8_bench.results.measured_comparison import MeasuredComparison

KERNEL = "pytorch_i8_i8_bf16_scaled_mm"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Twelve runs in a directory, the last four of them 5% slower."""
    rng = random.Random(0)
    (tmp_path / "runs").mkdir()
    for number in range(12):
        scale = math.exp((0.05 if number >= 8 else 0.0) + rng.gauss(0, 0.002))
        records = [record(KERNEL, *[1e-3 * scale * (1 + i / 9000) for i in range(12)])]
        header = replace(HEADER, time=f"2026-11-{number + 1:02}T12:00:00+00:00")
        comparison = MeasuredComparison(tuple(records), end(records), header)
        json_lines.write_new(tmp_path / f"runs/run{number:02}.jsonl", header, [comparison])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_directory_is_judged_and_its_index_kept(runs, capsys):
    assert main.main(["history", "runs"]) == 1
    out = capsys.readouterr().out
    assert "12 runs from 2026-11-01 to 2026-11-12, cpu: 1 series, 12 times" in out
    assert "changed with the run of 2026-11-09 12:00 (run08.jsonl)" in out
    assert (runs / ".w8a8-bench-history.sqlite").exists()
    assert main.main(["history", "runs"]) == 1
    assert capsys.readouterr().out == out


def test_a_threshold_that_is_not_reached_is_exit_code_0(runs, capsys):
    assert main.main(["history", "runs", "--threshold", "6", "--no-index"]) == 0
    assert "no series is slower than its best lasting level by more than 6%" in capsys.readouterr().out
    assert not (runs / ".w8a8-bench-history.sqlite").exists()


def test_files_and_patterns_are_taken(runs, capsys):
    assert main.main(["history", "runs/run0[0-7]*", "runs/run00.jsonl"]) == 0
    assert "8 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "begins"),
    [("h.html", "<!doctype html>"), ("h.md", "12 runs"), ("h.json", "{"), ("h.xml", "<?xml"), ("h.txt", "12 runs")],
)
def test_the_name_of_the_output_says_its_format(runs, capsys, name, begins):
    assert main.main(["history", "runs", "-o", name]) == 1
    assert (runs.parent / name).read_text(encoding="utf-8").startswith(begins)
    assert capsys.readouterr().out.startswith(f"{name}: 12 runs")


def test_json_on_standard_output_is_json_alone(runs, capsys):
    assert main.main(["history", "runs", "--format", "json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["series"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "none.jsonl"),
        (["runs/*.gz"], "runs/*.gz: no file fits this pattern"),
        (["runs", "--threshold", "-1"], "--threshold -1: expected a percentage of 0 or more"),
        (["runs", "-o", "h.pdf"], "no format goes with .pdf: expected one of .html"),
        (["runs", "-o", "h.jsonl"], "names that end in .jsonl are for measured results"),
        (["runs", "-o", "none/h.md"], "there is no directory none"),
        (["runs", "--format", "csv"], "--format"),
    ],
)
def test_bad_input_is_one_line(runs, capsys, words, message):
    assert main.main(["history", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_runs_that_timed_nothing_are_refused(runs, capsys):
    records = [record(KERNEL, reason="no", status="unsupported")]
    comparison = MeasuredComparison(tuple(records), end(records), HEADER)
    json_lines.write_new(runs.parent / "nothing.jsonl", HEADER, [comparison])
    assert main.main(["history", "nothing.jsonl"]) == 2
    assert "nothing.jsonl: nothing was timed, so there is no history" in capsys.readouterr().err
