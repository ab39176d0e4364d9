"""Text that came out of a file, made fit for a terminal, a table or a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from w8a8_bench.stats import Estimate

GAP = "  "

_MARKDOWN = {ord(char): f"\\{char}" for char in "\\`*_[]|~#"} | {
    ord(char): f"&#{ord(char)};"
    for char in "<>&@"  # tags, and the names of people who would be told
}


def one_line(text: str) -> str:
    """Text out of a file, which may hold line breaks or what a terminal would obey, as one harmless line."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text.strip()


def shown(value: object, most: int = 60) -> str:
    """A value in a message: its repr as one line of at most `most` characters, or its type if repr fails."""
    try:
        text = repr(value)
    except Exception as error:  # its author's mistake, in the midst of telling of another one
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(number: int, noun: str) -> str:
    """`1 shape`, `3 shapes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def few(texts: Iterable[str], most: int = 3) -> str:
    """The first of different texts, and how many more there are."""
    different = list(dict.fromkeys(texts))
    return ", ".join(different[:most]) + (f" and {len(different) - most} more" if len(different) > most else "")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Rows of a table as lines, each column as wide as its widest text and those of `left` flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [GAP.join(_justified(row, widths, left)).rstrip() for row in rows]


def _justified(row: Iterable[str], widths: Iterable[int], left: Collection[int]) -> Iterable[str]:
    for place, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if place in left else text.rjust(width)


def markdown(text: str) -> str:
    """Text that a renderer of Markdown shows as it stands, in a cell of a table too."""
    return one_line(text).translate(_MARKDOWN)


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int], *, padded: bool = False
) -> list[str]:
    """Lines of a table whose cells are Markdown already. A `padded` one reads as a table in plain text too."""
    cells = [header, *rows]
    rule = "| " + " | ".join("---" if place in left else "--:" for place in range(len(header))) + " |"
    if padded:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        cells = [list(_justified(row, widths, left)) for row in cells]
        ends = ["-" if place in left else ":" for place in range(len(header))]
        rule = f"|{'|'.join('-' * (width + 1) + end for width, end in zip(widths, ends, strict=True))}|"
    head, *lines = (f"| {' | '.join(row)} |" for row in cells)
    return [head, rule, *lines]


def format_time(seconds: float) -> str:
    """Four significant digits with the unit that keeps them readable: `13.42 us`."""
    value, decimals, unit, _ = _scaled(seconds)
    return f"{value:.{decimals}f} {unit}"


def format_difference(difference: Estimate) -> str:
    """With its sign and half the width of its interval, in one unit: `+2.713 us ±0.021`."""
    value, decimals, unit, scale = _scaled(abs(difference.median))
    text = f"{'-' if difference.median < 0 else '+'}{value:.{decimals}f} {unit}"
    if difference.interval is None:
        return text
    low, high = difference.interval
    return f"{text} ±{(high - low) / 2 / scale:.{decimals}f}"


def _scaled(seconds: float) -> tuple[float, int, str, float]:
    """The number to show, its decimals for four significant digits, its unit, and the unit in seconds."""
    digits, _, exponent_text = f"{seconds:.3e}".partition("e")
    exponent = int(exponent_text)
    # Of the rounded number, so that 999.96 us becomes 1.000 ms and not 1000 us.
    thousands = max(-3, min(0, exponent // 3))
    unit = {0: "s", -1: "ms", -2: "us", -3: "ns"}[thousands]
    shift = exponent - 3 * thousands
    return float(digits) * 10.0**shift, max(0, 3 - shift), unit, 10.0 ** (3 * thousands)


def in_one_line(error: BaseException) -> str:
    """What went wrong as a reason: the error's type and the first line of its text that is not empty.

    A compiler gives the place on the first line and the cause on the last.
    """
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception as other:  # of an error whose text can't be made, its type is all there is
        lines = [f"its text can't be made: {type(other).__name__}"]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += f" {lines[-1]}"
    return one_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
