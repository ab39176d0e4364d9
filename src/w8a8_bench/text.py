"""Text that came out of a file, made fit for a terminal, a table or an error."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text out of a file, which may hold line breaks or what a terminal would obey, as one harmless line."""
    return "".join(char if char.isprintable() else " " for char in text).strip()
