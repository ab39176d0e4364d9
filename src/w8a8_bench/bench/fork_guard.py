"""Kernels that fork: a launch only enqueues work, and a copy of this process must not run on in the midst of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator


class Forked(RuntimeError):
    """A kernel forked this process during a launch."""


class _Guard:
    def __init__(self) -> None:
        self.launching = False
        self.forks = 0

    def in_parent(self) -> None:
        self.forks += 1

    def in_child(self) -> None:
        if self.launching:
            os._exit(0)


_GUARD = _Guard()


def install(in_child: Callable[[], None]) -> None:
    """Have children that are forked during launches end at once, and others begin with `in_child`."""
    os.register_at_fork(after_in_parent=_GUARD.in_parent, after_in_child=_GUARD.in_child)
    os.register_at_fork(after_in_child=in_child)


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """While launches run. Raises Forked at the end where one forked."""
    before, _GUARD.launching = _GUARD.forks, True
    try:
        yield
    finally:
        _GUARD.launching = False
    if _GUARD.forks != before:
        raise Forked("the kernel forked this process in a launch, which may only enqueue work")
