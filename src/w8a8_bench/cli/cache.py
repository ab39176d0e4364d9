"""`cache show` and `cache clear`: what was compiled or chosen before and is kept on disk. Imports no library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from w8a8_bench import cache
from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.text import aligned, counted


def run(args: argparse.Namespace) -> int:
    root = cache.root()
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a directory: {cache.VARIABLE} names where the cache is")
    if args.what == "show":
        if args.parts:
            raise UsageError(f"cache show takes no PART: {' '.join(args.parts)}")
        print(_table(cache.contents()))
    elif args.what == "clear":
        print(_clear(args.parts))
    else:
        raise UsageError(f"cache {args.what!r}: expected show or clear")
    return EXIT_COMPLETE


def _table(contents: Sequence[cache.Content]) -> str:
    rows = [("part", "what it is", "files", "size")]
    rows += [(one.part, cache.HOLDS[one.part], str(one.files), _size(one.size_bytes)) for one in contents]
    rows.append(("total", "", str(sum(one.files for one in contents)), _size(sum(one.size_bytes for one in contents))))
    return "\n".join([str(cache.root()), *aligned(rows, left=(0, 1))])


def _clear(parts: Sequence[str]) -> str:
    """Remove parts, and say what they held."""
    for part in parts:
        if part not in cache.PARTS:
            raise UsageError(f"cache clear {part!r}: expected one of {', '.join(cache.PARTS)}")
    try:
        removed = [one for one in cache.clear(parts or cache.PARTS) if one.files]
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(
            f"{cache.root()} can't be cleared: {error.strerror}: {error.filename}; remove it yourself"
        ) from None
    if not removed:
        return f"{cache.root()}: there was nothing to remove"
    lines = [f"removed {one.part}: {counted(one.files, 'file')}, {_size(one.size_bytes)}" for one in removed]
    return "\n".join([str(cache.root()), *lines])


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f} MiB"
