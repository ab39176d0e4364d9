"""Options that take several values: commas separate them as spaces do, whichever option it is."""

from __future__ import annotations

import argparse

import pytest

from w8a8_bench.cli import main
from w8a8_bench.cli.errors import UsageError

PARSER = main._parser("w8a8-bench")
COMMANDS = PARSER.commands
NEEDED = {
    "square_bench": "--dim-start 16 --dim-end 16 --dim-increment 16",
    "range_bench": "--dim-start 16 --dim-end 32 --dim-increment 16",
    "csv_bench": "--csv shapes.csv",
    "recommend": "--model m r.jsonl",
}
"""What a command requires besides."""

LIST_OPTIONS = [
    (command, action.option_strings[-1])
    for command, parser in COMMANDS.items()
    for action in parser._actions
    if action.option_strings and action.nargs in ("+", "*")
]


def parsed(*words: str) -> argparse.Namespace:
    return PARSER.parse_args(main._arrange(words, PARSER))


def values(command: str, option: str, *words: str) -> list[object]:
    found = parsed(*words, command, *NEEDED.get(command, "").split())
    return getattr(found, option.removeprefix("--").replace("-", "_"))


def test_the_list_options_of_every_command_are_known_here():
    assert {option for _, option in LIST_OPTIONS} >= {
        *("--dtype", "--kernels", "--providers", "--schemes", "--activations", "--devices", "--measure"),
        *("--models", "--tp-sizes", "--batch-sizes"),
    }


@pytest.mark.parametrize(("command", "option"), LIST_OPTIONS)
def test_commas_and_spaces_separate_alike(command, option):
    expected = values(command, option, option, "1", "2", "3")
    assert len(expected) == 3
    for words in (
        (option, "1,2,3"),
        (option, "1,2", "3"),
        (option, "1", "2,3"),
        (option, "1,", "2,", "3"),
        (option, "1, 2,3"),
        (f"{option}=1,2,3",),
    ):
        assert values(command, option, *words) == expected, words


@pytest.mark.parametrize(("command", "option"), LIST_OPTIONS)
@pytest.mark.parametrize("text", ["1,,2", ",", "1,", ",1", "", " "])
def test_an_empty_value_is_one_line_with_the_option_and_what_was_typed(command, option, text):
    with pytest.raises(UsageError) as caught:
        values(command, option, f"{option}={text}")
    assert str(caught.value) == f"{option} {text!r}: a value is empty; separate values with one comma or a space"


def test_a_path_with_a_comma_is_one_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "config.json").write_text("{}")
    for path in ("a,b", "./a,b", "a,b/config.json", str(tmp_path / "a,b")):
        assert parsed("model_bench", "--models", "x,y", path, "z").models == ["x", "y", path, "z"]
    assert parsed("model_bench", "--models", "b,c/config.json").models == ["b", "c/config.json"]


@pytest.mark.parametrize("command", ["report", "recommend"])
def test_files_are_not_split(command):
    model = ("--model", "m") if command == "recommend" else ()
    assert parsed(command, "a,b.jsonl", "c.jsonl", *model).results == ["a,b.jsonl", "c.jsonl"]


def test_a_command_after_a_list_is_still_the_command():
    found = parsed("--dtype", "int8,fp8", "model_bench", "--batch-sizes=1,cliffs", "--tp", "1,2", "4")
    assert (found.command, found.dtype) == ("model_bench", ["int8", "fp8"])
    assert (found.batch_sizes, found.tp_sizes) == (["1", "cliffs"], [1, 2, 4])


@pytest.mark.parametrize(
    ("words", "kept"),
    [(["--dtype", "int8", "--help"], ["--help"]), (["--device", "cpu", "--version"], ["--version"]), (["-h"], ["-h"])],
)
def test_help_without_a_command_is_the_programs_whatever_stands_before_it(words, kept):
    assert main._arrange(words, PARSER) == kept
