"""What another's code raised, as one line."""

from __future__ import annotations

import re

import pytest

from w8a8_bench.providers.errors import Unfit, call, defined_at
from w8a8_bench.text import in_one_line


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("k=40"), "ValueError: k=40"),
        (ValueError(), "ValueError"),
        (ValueError("\n  first \nsecond\n"), "ValueError: first"),
        (ValueError("at 2:8:\n  i = arange(3)\n  ^\na power of 2"), "ValueError: at 2:8: a power of 2"),
        (ValueError("only this:"), "ValueError: only this:"),
        (Unfit("probe() gave 5"), "probe() gave 5"),
        (ValueError("\x1b[31mred"), "ValueError:  [31mred"),
    ],
)
def test_the_line_is_the_first_one_and_a_compilers_the_last_one_too(error, says):
    assert in_one_line(error) == says


def test_a_call_that_can_not_be_made_says_where_the_function_is():
    def two(one, other):
        raise TypeError("its own")

    with pytest.raises(Unfit, match=r"missing 1 required positional argument: 'other' \(test_errors\.py, line \d+\)$"):
        call(two, 1)
    with pytest.raises(TypeError, match=r"^its own$") as raised:
        call(two, 1, 2)
    assert not isinstance(raised.value, Unfit)


def test_what_is_not_written_in_python_has_no_place():
    assert defined_at(len) == ""
    assert re.fullmatch(r" \(errors\.py, line \d+\)", defined_at(call))
    with pytest.raises(Unfit, match="takes exactly one argument"):
        call(len)
