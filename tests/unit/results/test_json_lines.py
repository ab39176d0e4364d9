"""Results files: what is closed is never lost, what is torn is never read, and nothing foreign is touched."""

from __future__ import annotations

import errno
import fcntl
import gc
import gzip
import json
import os
import pickle
from pathlib import Path

import pytest
from made_results import HEADER, end, record

from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import StoreError, Writer
from w8a8_bench.results.record import to_json

ROOT = Path(__file__).resolve().parents[3]
KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")


def comparison(index: int, kernels: tuple[str, ...] = KERNELS):
    records = [record(kernel, 1e-5, comparison=index) for kernel in kernels]
    return records, end(records)


def write(path: Path, *indices: int, resume: bool = False) -> None:
    with Writer(path, resume=resume) as writer:
        writer.write_header(HEADER)
        for index in indices:
            writer.append(*comparison(index))


def line(call, *args, **kwargs) -> str:
    """The text of the StoreError that `call` raises: one line."""
    with pytest.raises(StoreError) as caught:
        call(*args, **kwargs)
    (text,) = str(caught.value).splitlines()
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl"


def test_what_was_written_is_read(path) -> None:
    write(path, 0, 1)
    results = json_lines.read(path)
    assert results.headers == (HEADER,)
    assert results.records == (*comparison(0)[0], *comparison(1)[0])
    assert results.ends == (comparison(0)[1], comparison(1)[1])
    assert results.warnings == ()


def test_every_line_is_json_by_the_book(path) -> None:
    write(path, 0)
    kinds = [json.loads(text)["kind"] for text in path.read_text(encoding="ascii").splitlines()]
    assert kinds == ["run", "cell", "cell", "comparison"]
    assert path.read_bytes().startswith(json_lines.HEADER_START)


def test_nothing_is_created_before_the_header(path) -> None:
    for resume in (False, True):
        with Writer(path, resume=resume) as writer:
            assert (writer.headers, writer.done, writer.records) == ((), (), ())
    assert not path.exists()


def test_a_comparison_is_one_write_and_on_the_disk_when_append_returns(path, monkeypatch) -> None:
    calls: list[str] = []
    real_write, real_sync = os.write, os.fsync
    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        monkeypatch.setattr(os, "write", lambda *a: calls.append("write") or real_write(*a))
        monkeypatch.setattr(os, "fsync", lambda *a: calls.append("fsync") or real_sync(*a))
        writer.append(*comparison(0))
    assert calls == ["write", "fsync"]


def test_records_that_are_not_the_comparisons_own_are_refused(path) -> None:
    with Writer(path, resume=False) as writer:
        with pytest.raises(RuntimeError):
            writer.append(*comparison(0))
        writer.write_header(HEADER)
        with pytest.raises(ValueError, match="not its own"):
            writer.append(comparison(0)[0][:1], comparison(0)[1])
        with pytest.raises(ValueError, match="not its own"):
            writer.append(comparison(1)[0], comparison(0)[1])
    assert json_lines.read(path).ends == ()


def test_an_existing_file_is_refused_and_kept(path) -> None:
    path.write_text("mine\n")
    assert line(Writer, path, resume=False) == f"{path} exists: add --resume to go on with it, or name another"
    assert line(Writer, path, resume=True).endswith("its first line is no run header")
    assert path.read_text() == "mine\n"


def test_a_file_that_can_not_be_is_refused_at_once(tmp_path, monkeypatch) -> None:
    assert "there is no directory" in line(Writer, tmp_path / "gone" / "r.jsonl", resume=False)
    assert "directory" in line(Writer, tmp_path, resume=True)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "no regular file" in line(Writer, tmp_path / "pipe.jsonl", resume=True)
    monkeypatch.setattr(os, "access", lambda *a: False)
    assert "not writable" in line(Writer, tmp_path / "r.jsonl", resume=False)


def test_a_file_that_appears_before_the_header_is_not_overwritten(path) -> None:
    with Writer(path, resume=False) as writer:
        path.write_text("other\n")
        assert "being written by another run" in line(writer.write_header, HEADER)
    assert path.read_text() == "other\n"


def test_a_second_writer_is_refused(path) -> None:
    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        assert "is being written by another run" in line(Writer, path, resume=True)
        writer.append(*comparison(0))
    with Writer(path, resume=True) as writer:
        assert writer.done == (0,)


def test_a_file_system_without_locks_is_written_all_the_same(path, monkeypatch) -> None:
    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write(path, 0)
    assert len(json_lines.read(path).ends) == 1


def test_resuming_goes_on_after_the_last_closed_comparison(path) -> None:
    write(path, 0, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(to_json(comparison(2)[0][0])).encode() + b'\n{"kind": "ce')
    with Writer(path, resume=True) as writer:
        assert (writer.done, writer.headers) == ((0, 1), (HEADER,))
        assert list(writer.records) == [*comparison(0)[0], *comparison(1)[0]]
        writer.write_header(HEADER)
        writer.append(*comparison(2))
    assert path.read_bytes().startswith(whole)
    results = json_lines.read(path)
    assert [closed.index for closed in results.ends] == [0, 1, 2]
    assert len(results.headers) == 2
    assert results.warnings == ()


def test_looking_at_a_file_for_resuming_changes_nothing(path) -> None:
    write(path, 0)
    torn = path.read_bytes()[:-1]
    path.write_bytes(torn)
    with Writer(path, resume=True) as writer:
        assert writer.done == writer.records == ()
    assert path.read_bytes() == torn
    assert Writer(path.with_name("gone"), resume=True).headers == ()


def test_a_file_torn_at_any_byte_reads_without_what_is_torn_and_resumes(path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of them are slow on a real disk
    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        for index in range(2):
            writer.append(*comparison(index, KERNELS[:1]))
    whole, torn = path.read_bytes(), tmp_path / "torn.jsonl"
    lengths = [len(text) for text in whole.splitlines(keepends=True)]
    header_end, ends = lengths[0], (sum(lengths[:3]), sum(lengths))
    for cut in range(len(whole)):
        torn.write_bytes(whole[:cut])
        closed = sum(cut >= offset for offset in ends)
        if cut < header_end:
            assert (
                "no run header" in line(json_lines.read, torn) or cut == 0 or "nothing" in line(json_lines.read, torn)
            )
        else:
            results = json_lines.read(torn)
            assert [one.index for one in results.ends] == list(range(closed))
            assert len(results.records) == closed
            assert bool(results.warnings) == (cut not in (header_end, *ends))
        with Writer(torn, resume=True) as writer:
            assert list(writer.done) == list(range(closed))
            writer.write_header(HEADER)
            for index in range(closed, 2):
                writer.append(*comparison(index, KERNELS[:1]))
        again = json_lines.read(torn)
        assert [one.index for one in again.ends] == [0, 1]
        assert again.warnings == ()


def test_records_that_were_never_closed_are_left_out_and_counted(path) -> None:
    write(path, 0)
    open_records = "".join(json.dumps(to_json(one)) + "\n" for one in comparison(7)[0])
    path.write_text(path.read_text() + open_records)
    (warning,) = json_lines.read(path).warnings
    assert "2 records of comparisons that were not finished" in warning
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(to_json(HEADER)) + "\n")
    results = json_lines.read(path)
    assert len(results.records) == 2
    assert "2 records" in results.warnings[0]


@pytest.mark.parametrize(
    "damage", [b"{", b"\xff", b"\0" * 8, b"[" * 100_000, b"[]", b'{"kind": "odd"}', b'{"a": NaN}', b""]
)
def test_a_corrupt_line_in_the_middle_is_named_and_nothing_is_changed(path, damage) -> None:
    write(path, 0, 1)
    lines = path.read_bytes().splitlines()
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    assert f"{path}, line 3: " in line(json_lines.read, path)
    assert f"{path}, line 3: " in line(Writer, path, resume=True)
    assert path.read_bytes() == before


def test_a_comparison_that_lacks_a_record_is_an_error(path) -> None:
    write(path, 0)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    assert "line 3: comparison 0 closes with 2 cells, but has 1" in line(json_lines.read, path)


def test_garbage_where_the_comparison_in_hand_was_is_cut_off(path) -> None:
    write(path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 40 + b"\n" + b"\0" * 40)
    write(path, 1, resume=True)
    assert path.read_bytes().startswith(whole)
    assert len(json_lines.read(path).ends) == 2


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_garbage_before_a_whole_comparison_is_refused_however_the_file_is_spaced(path, separators) -> None:
    write(path, 0, 1)
    lines = [json.dumps(json.loads(text), separators=separators) for text in path.read_text().splitlines()]
    lines[1] = "\0" + lines[1]
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    assert "line 2: no JSON" in line(lambda: Writer(path, resume=True))
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.write_text("other\n" * 999)])
def test_a_file_that_another_program_changes_meanwhile_is_not_written_on(path, damage) -> None:
    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        writer.append(*comparison(0))
        damage(path)
        after = path.read_bytes()
        assert "was changed by another program" in line(writer.append, *comparison(1))
    assert path.read_bytes() == after


def test_a_file_that_is_removed_meanwhile_is_an_error_that_says_so(path) -> None:
    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        writer.append(*comparison(0))
        path.unlink()
        assert line(writer.append, *comparison(1)) == f"{path} was removed while the sweep wrote it"
    assert not path.exists()


def test_what_follows_the_last_closed_comparison_can_be_cut_where_nothing_is_added(path) -> None:
    write(path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0\377 garbage\n\0")
    with Writer(path, resume=True) as writer:
        assert writer.done == (0,)
        writer.cut()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("allowed", [0, 1, 100])
def test_a_full_disk_says_what_is_safe_and_leaves_no_torn_line(path, monkeypatch, allowed) -> None:
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        nonlocal allowed
        if not allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, bytes(data)[:allowed])
        allowed -= written
        return written

    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        writer.append(*comparison(0))
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            text = line(writer.append, *comparison(1))
        assert text == f"the disk of {path} is full: 1 comparison is safe; free space and add --resume"
        assert path.read_bytes() == before
        writer.append(*comparison(1))
    assert len(json_lines.read(path).ends) == 2


def test_a_disk_that_is_full_from_the_start_leaves_no_file(path, monkeypatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Writer(path, resume=False) as writer:
        monkeypatch.setattr(os, "write", full)
        assert "0 comparisons are safe" in line(writer.write_header, HEADER)
    assert not path.exists()


def test_a_failing_disk_is_not_called_full(path, monkeypatch) -> None:
    def broken(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        monkeypatch.setattr(os, "fsync", broken)
        assert "Input/output error: 0 comparisons are safe" in line(writer.append, *comparison(0))


def test_an_interrupt_in_the_middle_of_a_write_leaves_no_torn_line(path, monkeypatch) -> None:
    real = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        real(descriptor, bytes(data)[:50])
        raise KeyboardInterrupt

    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.append(*comparison(0))
        assert path.read_bytes() == before


def test_an_interrupt_after_a_whole_write_takes_nothing_back(path, monkeypatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with Writer(path, resume=False) as writer:
        writer.write_header(HEADER)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.append(*comparison(0))
        assert [one.index for one in json_lines.read(path).ends] == [0]
        writer.append(*comparison(1))
    assert [one.index for one in json_lines.read(path).ends] == [0, 1]


def test_compressed_results_read_as_plain_ones(path, tmp_path) -> None:
    write(path, 0)
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert json_lines.read(packed) == json_lines.read(path)
    assert "compressed" in line(Writer, packed, resume=True)


def test_a_gzip_file_that_ends_early_is_read_as_far_as_it_goes_and_says_so(path, tmp_path) -> None:
    write(path, *range(40))
    whole, packed = json_lines.read(path), tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    size = packed.stat().st_size
    read = set()
    for cut in range(20, size, 97):
        packed.write_bytes(gzip.compress(path.read_bytes())[:cut])
        if cut < 300:
            assert "no whole gzip file: it ends early" in line(json_lines.read, packed)
            continue
        results = json_lines.read(packed)
        assert any("no whole gzip file: it ends early" in warning for warning in results.warnings)
        closed = len(results.ends)
        assert results.ends == whole.ends[:closed]
        assert results.records == whole.records[: 2 * closed]
        read.add(closed)
    assert len(read) > 3, "cut in different places, it holds more or less"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-8] + b"\0" * 8,
        lambda data: data + b"more",
        lambda data: data[:30] + b"\xff" * 40 + data[70:],
    ],
)
def test_a_corrupt_gzip_file_is_refused_in_one_line(path, tmp_path, damage) -> None:
    write(path, *range(9))
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(damage(gzip.compress(path.read_bytes())))
    assert line(json_lines.read, packed).startswith(f"{packed} is a corrupt gzip file: ")


def test_a_few_bytes_of_gzip_that_unpack_to_more_than_memory_are_refused(path, tmp_path, monkeypatch) -> None:
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\0" * 10_000_000))
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1000)
    assert "no run header" in line(json_lines.read, packed)
    write(path, *range(9))
    packed.write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(json_lines, "MAX_TEXT_BYTES", path.stat().st_size - 1)
    for file in (path, packed):
        assert "GiB of text: split the sweep" in line(json_lines.read, file)
    monkeypatch.setattr(json_lines, "MAX_TEXT_BYTES", path.stat().st_size)
    assert json_lines.read(packed) == json_lines.read(path)


def test_reading_leaves_the_collector_as_it_was(path) -> None:
    write(path, 0)
    for read in (lambda: json_lines.read(path), lambda: line(json_lines.read, path.with_name("gone"))):
        read()
        assert gc.isenabled()
    gc.disable()
    try:
        json_lines.read(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_line_without_end_is_refused_and_never_held_whole(path, monkeypatch) -> None:
    write(path, 0)
    whole = path.read_bytes()
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1 << 20)
    path.write_bytes(whole + b" " * (3 << 20) + b"\n" + whole)
    assert line(json_lines.read, path) == f"{path}, line 5: longer than 1 MiB"
    path.write_bytes(whole + b"\0" * (3 << 20))
    assert line(json_lines.read, path) == f"{path}, line 5: longer than 1 MiB"
    write(path, 1, resume=True)
    assert path.read_bytes().startswith(whole)
    assert len(json_lines.read(path).ends) == 2


def test_what_stands_in_a_file_can_not_break_the_line_that_refuses_it(path) -> None:
    data = json.loads(json.dumps(to_json(comparison(0)[0][0])))
    data["samples"] = {"\x1b[31m\nspoof" + "x" * 10_000: [-1.0]}
    path.write_text(json.dumps(to_json(HEADER)) + "\n" + json.dumps(data) + "\n")
    text = line(json_lines.read, path)
    assert text.isprintable()
    assert len(text) < len(str(path)) + 500


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was loaded",))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x7fELF\x02\x01\n\x00", "no run header"),
        (b"\xff\xfe", "no run header"),
        (b"m,n,k\n1,2,3\n", "no run header"),
        (b"mine", "no run header"),
        (b'{"kind": "cell"}\n', "no run header"),
        (
            b'{"kind": "run", "schema": 9}\n',
            "line 1: schema 9 is newer than this version reads (3): upgrade w8a8-bench",
        ),
        (b'{"kind": "run", "schema": 1}\n', "line 1: command is missing"),
        (pickle.dumps(Bomb()), "a pickle is never loaded"),
    ],
)
def test_a_foreign_file_is_one_clear_line_and_stays_as_it_is(path, data, expected) -> None:
    path.write_bytes(data)
    assert expected in line(json_lines.read, path)
    assert expected in line(Writer, path, resume=True)
    assert path.read_bytes() == data


def test_a_missing_or_empty_file_has_nothing_to_read(path) -> None:
    assert "No such file" in line(json_lines.read, path)
    path.touch()
    assert "is empty" in line(json_lines.read, path)
    write(path, 0, resume=True)
    assert len(json_lines.read(path).ends) == 1


SCHEMA_1 = (
    '{"kind": "run", "schema": 1, "command": ["w8a8-bench"], "time": "2026-11-23T02:29:50+00:00", "environment": {}, '
    '"device": {"kind": "cuda"}, "plan": {"comparisons": 1}, "settings": {"seed": 0}, "resumed": false}\n'
    '{"kind": "cell", "comparison": 0, "kernel": "pytorch_bf16_bf16_bf16_matmul-no-scales", "provider": "pytorch", '
    '"problem": {"m": 128, "n": 128, "k": 128, "format": "bf16", "out": "bf16", "scheme": null, "azp": "none", '
    '"bias": false, "activations": "prequantized"}, "labels": {}, "status": "ok", "reason": "", "error": null, '
    '"config": {}, "samples": {"time_host": [1.8e-05, 1.7e-05], "time_host_quant": [1e-06, 2e-06]}, "blocks": [0, 1], '
    '"launches_per_sample": {"time_host": 4}, "clock_mhz": null, "flags": []}\n'
    '{"kind": "comparison", "index": 0, "shape": {"m": 128, "n": 128, "k": 128}, "labels": {}, '
    '"seconds": {"setup": 0.5}, "blocks": 2, "cells": 1}\n'
)


def test_a_file_of_schema_1_is_read_as_it_was_meant_and_gone_on_with(path) -> None:
    path.write_text(SCHEMA_1)
    results = json_lines.read(path)
    (old,), (closed,) = results.records, results.ends
    assert results.headers[0].schema == 1
    assert old.samples == {"time_host": (1.8e-5, 1.7e-5), "time_host_quant": (1e-6, 2e-6)}
    assert old.blocks == {"time_host": (0, 1), "time_host_quant": (0, 1)}
    assert (closed.blocks, closed.duplicate, closed.machine, closed.memory_bytes) == (2, {}, {}, None)
    write(path, 1, resume=True)
    assert [one.schema for one in json_lines.read(path).headers] == [1, 3]
    assert json_lines.read(path).records[0] == old


def test_committed_results_of_schema_1_keep_every_sample() -> None:
    results = json_lines.read(ROOT / "results/h200/square_fp8_host_timer.jsonl.gz")
    timed = [one for one in results.records if one.samples]
    assert timed
    for one in timed:
        assert all(len(one.blocks[measure]) == len(seconds) for measure, seconds in one.samples.items())


def test_a_device_is_no_results_file() -> None:
    assert line(json_lines.read, "/dev/zero") == "/dev/zero is a device: name a file"


def test_every_comparison_names_the_header_that_it_was_measured_under(path) -> None:
    write(path, 0, 1)
    write(path, 2, resume=True)
    results = json_lines.read(path)
    first, second = results.headers
    assert [comparison.run for comparison in results.comparisons] == [first, first, second]
    assert results.path == path


def test_a_file_that_is_written_at_once_is_what_a_sweep_writes(path, tmp_path) -> None:
    write(path, 0, 1)
    whole = json_lines.read(path)
    json_lines.write_new(tmp_path / "new.jsonl", whole.headers[0], whole.comparisons)
    assert (tmp_path / "new.jsonl").read_bytes() == path.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new.jsonl", "r.jsonl"]


def test_a_file_that_is_written_at_once_replaces_none_that_appears_meanwhile(path, tmp_path) -> None:
    def appears():
        path.write_text("other\n")
        yield from ()

    assert line(json_lines.write_new, path, HEADER, appears()) == f"{path} exists: name another file"
    assert path.read_text() == "other\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_can_not_be_written_at_once_leaves_nothing_behind(path, tmp_path, monkeypatch, error) -> None:
    def fails(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        json_lines.write_new(path, HEADER, [])
    assert list(tmp_path.iterdir()) == []
