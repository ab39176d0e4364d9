"""Ctrl-C, SIGTERM and a closed terminal: the first ends the run in order, and those that follow don't disturb it."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_was_interrupted = False


def install() -> None:
    """Raise KeyboardInterrupt at the first of the signals, and ignore any after it."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` has closing terminals ignored
            signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt where one was raised before and got lost, as happens inside imports of native modules."""
    if _was_interrupted:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    _was_interrupted = True
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt
