"""Text that came out of a file, made fit for a terminal, a table or a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

GAP = "  "

_MARKDOWN = {ord(char): f"\\{char}" for char in "\\`*_[]|~#"} | {
    ord(char): f"&#{ord(char)};"
    for char in "<>&@"  # tags, and the names of people who would be told
}


def one_line(text: str) -> str:
    """Text out of a file, which may hold line breaks or what a terminal would obey, as one harmless line."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def shown(value: object, most: int = 60) -> str:
    """A value in a message: its repr as one line of at most `most` characters; of one that has none, its type."""
    try:
        text = repr(value)
    except Exception as error:  # its author's mistake, in the midst of telling of another one
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(number: int, noun: str) -> str:
    """`1 shape`, `3 shapes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int]) -> list[str]:
    """Lines of a Markdown table. Cells are Markdown already."""
    rule = ["---" if place in left else "--:" for place in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
