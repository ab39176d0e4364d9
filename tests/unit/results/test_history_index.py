"""The index of results files: what it holds is what the files hold, and without it nothing is lost but time."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
from copies import replace
from made_results import HEADER, end, record

from w8a8_bench.kernel import Status
from w8a8_bench.results import history_index, json_lines
from w8a8_bench.results.history_index import NAME, read_times
from w8a8_bench.results.measured_comparison import MeasuredComparison

KERNEL = "pytorch_i8_i8_bf16_scaled_mm"


@pytest.fixture
def files(tmp_path):
    """Two runs of a kernel, the second of them with a broken one beside it."""
    for number, seconds in enumerate((1e-5, 2e-5)):
        records = [record(KERNEL, *[seconds * (1 + i / 1000) for i in range(12)])]
        if number:
            records.append(record(f"{KERNEL}_bias", status=Status.CRASHED, reason="signal SIGSEGV"))
        header = replace(HEADER, time=f"2026-11-0{number + 1}T12:00:00+00:00", settings={"measures": ["time_host"]})
        json_lines.write_new(
            tmp_path / f"run{number}.jsonl", header, [MeasuredComparison(tuple(records), end(records), header)]
        )
    return [tmp_path / "run0.jsonl", tmp_path / "run1.jsonl"]


def taken(files, **options):
    """The times of all files, and the files that were read for them."""
    read = []

    def reading(path):
        read.append(path.name)
        return json_lines.read(path)

    times = [one for of_file, *_ in read_times(files, reading, **options) for one in of_file]
    return times, read


def plainly(times):
    return [(one.run, one.cell, one.seconds, one.variance, one.status, one.reason) for one in times]


def test_times_are_those_of_the_files(files):
    times, _ = taken(files)
    assert [one.status for one in times] == ["ok", "ok", "crashed"]
    assert times[0].seconds == pytest.approx(1e-5 * 1.0055)
    assert times[0].variance > 0
    assert (times[2].seconds, times[2].reason) == (None, "signal SIGSEGV")
    assert times[0].cell == times[1].cell != times[2].cell
    device, measure, point, kernel, problem = json.loads(times[2].cell)
    assert (device, measure, point, kernel) == ("cpu", "time_host", [None, None], f"{KERNEL}_bias")
    assert problem["bias"] is True
    assert [one.run.time[:10] for one in times] == ["2026-11-01", "2026-11-02", "2026-11-02"]
    assert times[1].run is times[2].run


def test_the_second_time_no_file_is_read(files):
    first, read = taken(files)
    assert read == ["run0.jsonl", "run1.jsonl"]
    again, read = taken(files)
    assert read == []
    assert plainly(again) == plainly(first)
    assert again[1].run is again[2].run
    assert taken(files, use_index=False)[1] == ["run0.jsonl", "run1.jsonl"]


def test_a_file_that_changed_is_read_anew(files):
    taken(files)
    os.utime(files[1], ns=(1, 1))
    assert taken(files)[1] == ["run1.jsonl"]
    files[0].write_bytes(files[1].read_bytes())
    times, read = taken(files)
    assert read == ["run0.jsonl"]
    assert [one.status for one in times] == ["ok", "crashed", "ok", "crashed"]


@pytest.mark.parametrize("damage", ["foreign", "version", "cut", "row"])
def test_an_index_of_no_use_is_made_anew(files, damage):
    first, _ = taken(files)
    index = files[0].parent / NAME
    if damage == "foreign":
        index.write_text("not a database, and long enough to have no header of one" * 99)
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[:5000])
    else:
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA user_version = 99" if damage == "version" else "UPDATE files SET runs = '[{}]'")
        connection.close()
    times, read = taken(files)
    assert read == ["run0.jsonl", "run1.jsonl"]
    assert plainly(times) == plainly(first)
    assert taken(files)[1] == []


def test_an_index_that_is_deleted_is_made_again(files):
    taken(files)
    (files[0].parent / NAME).unlink()
    assert taken(files)[1] == ["run0.jsonl", "run1.jsonl"]


def test_where_nothing_can_be_written_there_is_no_index(files, monkeypatch):
    def refused(*args, **more):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(history_index.sqlite3, "connect", refused)
    assert len(taken(files)[0]) == 3
    assert not (files[0].parent / NAME).exists()


def test_files_of_one_name_in_two_directories_are_told_apart(files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / files[0].name).write_bytes(files[1].read_bytes())
    for _ in range(2):
        times, _ = taken([files[0], other / files[0].name])
        assert [one.run.file for one in times] == [f"{tmp_path.name}/run0.jsonl", *["other/run0.jsonl"] * 2]


def test_a_name_that_is_no_utf_8_is_kept_as_plain_characters(files):
    odd = files[0].parent / os.fsdecode(b"r\xe9.jsonl")
    files[0].rename(odd)
    for _ in range(2):
        times, _ = taken([odd])
        assert [one.run.file for one in times] == ["r\\xe9.jsonl"]


def test_what_was_left_out_is_told_with_the_index_too(files):
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) - 200])
    told = [[(bool(warnings), kept) for _, warnings, kept in read_times(files, json_lines.read)] for _ in range(2)]
    assert told == [[(False, False), (True, False)], [(False, True), (True, True)]]


def test_a_cell_that_was_not_timed_is_of_the_measure_that_was_asked_for(files, tmp_path):
    header = replace(HEADER, settings={"measures": ["time_host"]})
    records = [record(KERNEL, status=Status.CRASHED, reason="signal SIGSEGV")]
    path = tmp_path / "broken.jsonl"
    json_lines.write_new(path, header, [MeasuredComparison(tuple(records), end(records), header)])
    times, _ = taken([files[0], path])
    assert times[0].cell == times[1].cell


def test_a_full_disk_loses_no_times(files, monkeypatch):
    def full(*args):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(history_index, "_keep", full)
    assert len(taken(files)[0]) == 3
