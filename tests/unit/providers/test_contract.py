"""What a provider raised or returned wrong is told in one line that names its own file."""

from __future__ import annotations

import json
import re

import pytest

from w8a8_bench.providers.contract import BrokenContract, defined_at, with_place


def test_a_place_is_the_last_line_in_the_first_file_that_was_called_into():
    def deeper():
        json.loads("{")

    with pytest.raises(ValueError) as raised:
        deeper()
    line = deeper.__code__.co_firstlineno + 1
    assert with_place(raised.value).startswith("JSONDecodeError: ")
    assert with_place(raised.value).endswith(f" (test_contract.py, line {line})")


def test_what_no_line_of_a_provider_raised_has_no_place():
    assert with_place(ValueError("k=40")) == "ValueError: k=40"


def test_a_broken_contract_is_told_without_the_name_of_an_exception():
    assert with_place(BrokenContract("probe() gave 5")) == "probe() gave 5"


def test_what_is_not_written_in_python_has_no_place():
    assert defined_at(len) == ""
    assert re.fullmatch(r" \(contract\.py, line \d+\)", defined_at(defined_at))
