"""Text of others, as one line."""

from __future__ import annotations

import pytest

from w8a8_bench.text import in_one_line


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("k=40"), "ValueError: k=40"),
        (ValueError(), "ValueError"),
        (ValueError("\n  first \nsecond\n"), "ValueError: first"),
        (ValueError("at 2:8:\n  i = arange(3)\n  ^\na power of 2"), "ValueError: at 2:8: a power of 2"),
        (ValueError("only this:"), "ValueError: only this:"),
        (ValueError("\x1b[31mred"), "ValueError:  [31mred"),
    ],
)
def test_the_line_is_the_first_one_and_a_compilers_the_last_one_too(error, says):
    assert in_one_line(error) == says
