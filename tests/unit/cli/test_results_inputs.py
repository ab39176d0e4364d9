"""Which files a command that reads results takes, and which of a directory it leaves out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from made_results import end, in_file, record
from made_sweep import header, lines

from w8a8_bench.cli.errors import UsageError
from w8a8_bench.cli.results import Inputs
from w8a8_bench.problem.kernel_name import BASELINE


@pytest.fixture
def text() -> str:
    """A whole results file of one cell."""
    records = (record(BASELINE, 1e-5, 1e-5),)
    results = in_file(records, [end(records)], header())
    return "".join(f"{line}\n" for line in lines(results))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def names(*words: str) -> list[str]:
    return [str(path) for path in Inputs(words).paths]


def test_a_directory_gives_its_own_results_files_by_name(here, text):
    for name in ("d/b.jsonl", "d/a.jsonl.gz", "d/c.json", "d/d.pkl", "e.jsonl"):
        put(here / name, text)
    put(here / "d/below/x.jsonl", text)
    assert names("d") == ["d/a.jsonl.gz", "d/b.jsonl"]
    assert names("d", "e.jsonl") == ["e.jsonl", "d/a.jsonl.gz", "d/b.jsonl"]


def test_every_file_is_taken_once(here, text):
    for name in ("d/a.jsonl", "d/b.jsonl"):
        put(here / name, text)
    (here / "link.jsonl").symlink_to(here / "d/a.jsonl")
    (here / "same").symlink_to(here / "d")
    assert names("d", "./d/", "same", "d/b.jsonl", "link.jsonl") == ["d/b.jsonl", "link.jsonl"]
    assert names("d", "same") == ["d/a.jsonl", "d/b.jsonl"]
    assert len(Inputs(["d", "same", "d/a.jsonl", "d/b.jsonl"]).read()) == 2


@pytest.mark.parametrize(
    "other",
    [
        '{"a": 1}\n',
        '{"kind": "run", "environment": {}}\n{"kind": "cell"}\n',
        "header\n{VERDICT}\n",
        "no JSON\n",
        "[1]\n",
        "\x80\x04.",
        "",
    ],
    ids=["a table", "a table with a header", "verdicts", "text", "a list", "a pickle", "nothing"],
)
def test_what_is_not_of_a_sweep_is_left_out_of_a_directory_with_a_warning(here, text, capsys, other):
    first = text.partition("\n")[0]
    put(here / "d/other.jsonl", other.replace("header", first).replace("{VERDICT}", '{"kind": "verdict"}'))
    put(here / "d/whole.jsonl", text)
    (results,) = Inputs(["d"]).read()
    assert str(results.path) == "d/whole.jsonl"
    assert capsys.readouterr().err == "warning: left out, not results of a sweep: other.jsonl in d\n"
    with pytest.raises(UsageError):
        Inputs(["d", "d/other.jsonl"]).read()


def test_what_is_left_out_of_several_directories_is_one_line(here, text, capsys):
    for place in ("a", "b"):
        put(here / place / "whole.jsonl", text)
        for name in ("x.jsonl", "y.jsonl"):
            put(here / place / name, "{}\n")
    assert len(Inputs(["a", "b"]).read()) == 2
    said = "warning: left out, not results of a sweep: x.jsonl, y.jsonl in a; x.jsonl, y.jsonl in b\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"status": "ok"', '"status": "fine"', "d/x.jsonl, line 2: status 'fine'"),
        ('"schema": 3', '"schema": 9', "d/x.jsonl, line 1: schema 9 is newer"),
        ('{"kind": "cell"', '"kind": "cell"', "d/x.jsonl, line 2: no JSON"),
    ],
)
def test_damaged_results_of_a_sweep_are_an_error_in_a_directory_too(here, text, old, new, says):
    assert old in text
    put(here / "d/whole.jsonl", text)
    put(here / "d/x.jsonl", text.replace(old, new))
    with pytest.raises(UsageError) as caught:
        Inputs(["d"]).read()
    assert str(caught.value).startswith(says)


def test_a_sweep_that_was_killed_early_is_one(here, text, capsys):
    first, rest = text.split("\n", 1)
    put(here / "d/begun.jsonl", f"{first}\n")
    put(here / "d/torn.jsonl", f"{first}\n{rest[:40]}")
    assert [len(one.records) for one in Inputs(["d"]).read()] == [0, 0]
    assert capsys.readouterr().err == "warning: d/torn.jsonl: the last line is torn and left out\n"


def test_a_directory_without_results_says_so(here, text):
    (here / "d").mkdir()
    put(here / "d/notes.txt", "")
    with pytest.raises(
        UsageError, match=r"^d has no results files \(\*\.jsonl, \*\.jsonl\.gz\); directories inside it"
    ):
        Inputs(["d"])
    put(here / "d/x.jsonl", "{}\n")
    put(here / "whole.jsonl", text)
    for words in (["d"], ["whole.jsonl", "d"]):
        with pytest.raises(UsageError, match=r"^d has no results of a sweep; its files hold something else: x\.jsonl$"):
            Inputs(words).read()
