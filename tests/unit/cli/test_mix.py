"""A mix of m from words and files: weights as given, or one line that says what is wrong."""

from __future__ import annotations

import pytest

from w8a8_bench.cli import mix


def test_words_are_m_and_weight_and_a_missing_weight_is_one():
    assert mix.of_words(["256:0.3", "16"]) == {16: 1.0, 256: 0.3}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("x:1", "expected a whole number m"),
        ("16:much", "expected a whole number m"),
        ("0:1", "expected m of at least 1"),
        ("16:0", "a weight above 0"),
        ("16:nan", "a weight above 0"),
        ("16:inf", "a weight above 0"),
    ],
)
def test_a_word_that_is_no_mix_is_refused_as_it_was_typed(word, says):
    with pytest.raises(ValueError, match=says):
        mix.of_words([word])


def test_an_m_counts_once():
    with pytest.raises(ValueError, match="m=16 is there twice"):
        mix.of_words(["16:1", "16:2"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.csv", "m,weight\n16,0.7\n256,0.3\n"),
        ("w.json", '{"16": 0.7, "256": 0.3}'),
        ("w.json", '[{"m": 16, "weight": 0.7}, {"m": 256, "weight": 0.3}]'),
    ],
)
def test_files_of_every_form_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert mix.of_file(tmp_path / name) == {16: 0.7, 256: 0.3}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("w.csv", b"a,b\n1,2\n", "expected CSV with columns m and weight"),
        ("w.json", b"{", "expected CSV with columns m and weight"),
        ("w.json", b"7", "expected CSV with columns m and weight"),
        ("w.json", b"[[16, 1]]", "expected CSV with columns m and weight"),
        ("w.json", b"{}", "has no m"),
        ("w.csv", b"\xff", "is no text"),
        ("gone.csv", None, "can't be read: No such file or directory"),
        ("w.csv", b"m,weight\n16\n", "expected a whole number m and its weight"),
    ],
)
def test_a_file_of_anything_else_is_one_line_with_its_name(tmp_path, name, data, says):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=says) as caught:
        mix.of_file(tmp_path / name)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1
