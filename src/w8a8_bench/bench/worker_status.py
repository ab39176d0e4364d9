"""What a worker is doing, where its parent can read it at any moment, also after the worker was killed.

A page of memory that both map. Writing to it takes no system call and wakes nobody, so that it may be written around
every sample; a message a sample would wake the parent beside what is timed.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

from w8a8_bench.kernel import Step

_FIELDS = struct.Struct("<qqqq")
NOBODY = -1
NOTHING = 0


@dataclass(frozen=True)
class Note:
    """`number` changes with every note. `cell` is the one whose kernel runs, None if none does; `last` ran before,
    and `step` of it."""

    number: int
    cell: int | None
    last: int | None
    step: Step | None


class StatusPage:
    """The page. The parent makes it; the worker opens it by its descriptor, which it inherits."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            with tempfile.TemporaryFile() as file:
                file.write(bytes(mmap.PAGESIZE))  # of a page that a full disk has no room for, a write to it is fatal
                file.flush()
                self.descriptor = os.dup(file.fileno())
        else:
            self.descriptor = descriptor
        self._page = mmap.mmap(self.descriptor, mmap.PAGESIZE)

    def clear(self) -> None:
        """Begin anew: no kernel runs, and none did."""
        self._write(NOBODY, NOBODY, NOTHING)

    def note(self, cell: int | None, step: Step | None) -> None:
        """From now on a step of the kernel of `cell` (its place in the comparison) runs; None: no kernel's does."""
        if cell is None or step is None:
            _, _, last, done = _FIELDS.unpack_from(self._page)
            self._write(NOBODY, last, done)
        else:
            self._write(cell, cell, step)

    def _write(self, cell: int, last: int, step: int) -> None:
        number = _FIELDS.unpack_from(self._page)[0] + 1
        _FIELDS.pack_into(self._page, 0, number, cell, last, step)

    def read(self) -> Note:
        """The last note. A reader in the midst of a write sees a mixture once, and the next look is right."""
        number, cell, last, step = _FIELDS.unpack_from(self._page)
        return Note(
            number,
            cell=None if cell == NOBODY else cell,
            last=None if last == NOBODY else last,
            step=None if step == NOTHING else Step(step),
        )

    def close(self) -> None:
        self._page.close()
        os.close(self.descriptor)
