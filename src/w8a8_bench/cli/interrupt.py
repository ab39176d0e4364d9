"""Ctrl-C, SIGTERM and a closed terminal: the first ends the run in order, and those that follow don't disturb it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from w8a8_bench.cli.errors import EXIT_INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_was_interrupted = False
_nothing_to_keep = ""


def install() -> None:
    """Raise KeyboardInterrupt at the first of the signals, and ignore any after it."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` has closing terminals ignored
            signal.signal(number, _interrupt)


@contextmanager
def nothing_to_keep(prog: str) -> Iterator[None]:
    """Have `prog` end at the first signal, where it stands.

    For imports: one that is broken off raises what it likes, and native code may lose the exception.
    """
    global _nothing_to_keep
    _nothing_to_keep = prog
    try:
        yield
    finally:
        _nothing_to_keep = ""


def was_interrupted() -> bool:
    """Whether one of the signals came; what is raised after it may be raised because of it."""
    return _was_interrupted


def check() -> None:
    """Raise KeyboardInterrupt if one was raised before and got lost, as happens inside finalizers."""
    if _was_interrupted:
        raise KeyboardInterrupt


def leave() -> NoReturn:
    """End this process, of whose output everything is written, at once.

    Python would take torch down first, piece by piece: a second, and more on a machine that is busy.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever reads it has gone, or it was closed
            stream.flush()
    os._exit(EXIT_INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    _was_interrupted = True
    if _nothing_to_keep:
        os.write(2, f"{_nothing_to_keep}: interrupted\n".encode())
        os._exit(EXIT_INTERRUPTED)
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt
