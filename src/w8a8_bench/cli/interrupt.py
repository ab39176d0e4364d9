"""Ctrl-C and SIGTERM: the first one ends the run in order, and those that follow don't disturb it."""

from __future__ import annotations

import signal
from types import FrameType

_was_interrupted = False


def install() -> None:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM, and ignore any after it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt where one was raised before and got lost, as happens inside imports of native modules."""
    if _was_interrupted:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    _was_interrupted = True
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt
