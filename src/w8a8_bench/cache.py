"""The one directory on disk for what was compiled or chosen before: where it is, and how entries are read and written.

It is `$W8A8_BENCH_CACHE`, else `w8a8-bench` in the user's cache (`$XDG_CACHE_HOME`, else `~/.cache`), with a folder for
each of `PARTS`. The key of an entry names everything that it depends on, so that a stale entry is never found.
Processes share the directory: entries are written whole or not at all. If one can't be read it is made anew, and if
none can be written (a full disk, no permission), the benchmark says so once and goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "W8A8_BENCH_CACHE"

HOLDS: Mapping[str, str] = {
    "cutlass": "compiled CUTLASS kernels, and what GPUs say about clusters",
    "triton": "Triton's own cache, as a sweep's workers see it",
    "deepgemm": "DeepGEMM's own cache, as a sweep's workers see it",
    "inductor": "Inductor's own cache, as a sweep's workers see it",
    "flashinfer": "FlashInfer's own caches, as a sweep's workers see them",
    "cublaslt": "the fastest of cuBLASLt's algorithms for a problem",
    "choices": "configurations tuned for shapes that are in no table",
    "compiled": "marks of what the libraries' own caches hold",
}
"""What each part is."""

PARTS = tuple(HOLDS)

TAG = "CACHEDIR.TAG"
TAG_TEXT = """\
Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache of w8a8-bench. For cache directory tags see https://bford.info/cachedir/
"""
"""Tells programs that make backups to leave the directory out, and `clear` that it is ours."""

DEFAULT_NAME = "w8a8-bench"

LIBRARIES = {
    "TRITON_CACHE_DIR": "triton",
    "DG_JIT_CACHE_DIR": "deepgemm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "TRTLLM_DG_CACHE_DIR": "flashinfer",
}
"""Environment variables by which libraries are told where to keep what they compile."""


def root() -> Path:
    """The directory, as an absolute path; it need not exist yet."""
    if own := os.environ.get(VARIABLE):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", DEFAULT_NAME).absolute()


def library_environment() -> dict[str, str]:
    """Variables for the environment of a worker, so that libraries keep what they compile here.

    A variable that the user has set stays as it is. If the directories can't be made, libraries keep their own places.
    """
    places = {name: root() / part for name, part in LIBRARIES.items() if not os.environ.get(name)}
    try:
        for place in places.values():
            make_directory(place)
    except OSError as error:
        cannot_write(error)
        return {}
    return {name: str(place) for name, place in places.items()}


def library_directories() -> tuple[str, ...]:
    """Where the libraries of this process keep what they compile; empty if they decide for themselves."""
    return tuple(os.environ.get(name, "") for name in LIBRARIES)


def digest(*facts: object) -> str:
    """A short name for facts that an entry depends on."""
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:16]


def path_of(part: str, *facts: object) -> Path:
    """The file of the entry that depends on `facts`."""
    return root() / part / f"{digest(*facts)}.json"


def make_directory(path: Path) -> None:
    """Make a directory below the root. A root that was not there before, or was empty, is tagged as ours.

    Raises OSError.
    """
    top = root()
    if path.is_relative_to(top) and _is_vacant(top):
        top.mkdir(parents=True, exist_ok=True)
        with _whole(top / TAG) as made:
            made.write_text(TAG_TEXT, encoding="utf-8")
    path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write an entry to. At the end it becomes `path` in one step; not at all if the body raises.

    Raises OSError.
    """
    make_directory(path.parent)
    with _whole(path) as made:
        yield made


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, path.name)
        yield made
        os.replace(made, path)


def read(path: Path) -> Any | None:
    """What an entry holds; None if there is none, or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write(path: Path, content: object) -> bool:
    """Write an entry as JSON, whole or not at all; whether that was possible."""
    try:
        with whole(path) as made:
            made.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        cannot_write(error)
        return False
    return True


@cache
def _say_once(line: str) -> None:
    print(f"w8a8-bench: {line}", file=sys.stderr, flush=True)


def cannot_write(error: OSError) -> None:
    """Say, once a process, that nothing can be kept."""
    _say_once(
        f"nothing can be kept in {root()} ({error.strerror or error}): kernels are compiled anew in every process; "
        f"{VARIABLE} names another directory"
    )


@dataclass(frozen=True)
class Content:
    """What one part of the cache holds."""

    part: str
    files: int
    size_bytes: int


def contents() -> list[Content]:
    """Every part, also an empty one."""
    found = []
    for part in PARTS:
        sizes = []
        for directory, _, names in os.walk(root() / part):
            for name in names:
                with contextlib.suppress(OSError):  # another process replaced or cleared it meanwhile
                    sizes.append(os.stat(os.path.join(directory, name)).st_size)
        found.append(Content(part, len(sizes), sum(sizes)))
    return found


def clear(parts: Sequence[str] = PARTS) -> list[Content]:
    """Remove `parts`; what they held. `compiled` says what the libraries' caches hold, so it goes with any of them.

    Raises ValueError if the root may be somebody else's, and OSError if a file can't be removed.
    """
    top = root()
    if not _is_vacant(top) and not _is_ours(top):
        raise ValueError(
            f"{top} has no {TAG} of w8a8-bench, so what is in it may be somebody else's: correct {VARIABLE}, or remove "
            "the folders there yourself"
        )
    gone = {*parts, "compiled"}
    held = [content for content in contents() if content.part in gone]
    for part in gone:
        with contextlib.suppress(FileNotFoundError):
            if (top / part).is_symlink():
                (top / part).unlink()
            else:
                shutil.rmtree(top / part)
    return held


def _is_vacant(top: Path) -> bool:
    """Whether nothing is there, or an empty directory."""
    try:
        with os.scandir(top) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True


def _is_ours(top: Path) -> bool:
    """Whether we made it: it has our tag, or the default's name, since versions up to 0.2 wrote no tag."""
    try:
        return top.name == DEFAULT_NAME or (top / TAG).read_text(encoding="utf-8", errors="replace") == TAG_TEXT
    except OSError:
        return False
