"""What went wrong in another's code, as one line: what was raised, where, and whether that code is to blame."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import w8a8_bench
from w8a8_bench.text import in_one_line

OF_A_LIBRARY = (ImportError, OSError, RuntimeError)
"""What a call raises that finds a library missing or broken, also where it leaves no frame of the library's."""

OF_THE_CODE = (NotImplementedError, RecursionError)
"""RuntimeErrors that are the code's own."""

OF_TORCH = os.path.join("-packages", "torch", "")
"""In the path of every file of torch."""


class Unfit(TypeError):
    """What another's code gives is not what it is asked for. The text needs no name of an exception before it."""

    speaks_for_itself = True


def with_place(error: BaseException) -> str:
    """As `in_one_line`, and where: the last line that ran in the file that this package called into.

    torch's own files are passed over: they stand between this package and a module's `forward`, say.
    """
    beyond = [(file, line) for file, line in _lines_beyond(error) if OF_TORCH not in file]
    if not beyond or isinstance(error, SyntaxError):  # which says it itself
        return in_one_line(error)
    called = beyond[0][0]
    last = [line for file, line in beyond if file == called][-1]
    return f"{in_one_line(error)} ({os.path.basename(called)}, line {last})"


def is_mistake(error: BaseException) -> bool:
    """Whether the author of the file that this package called into is to mend it, and not who installs a library.

    It is where the file itself raised, and not what it imports or calls, and where it imports what this package lacks.
    """
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == w8a8_bench.__name__:
        return True
    if isinstance(error, OF_A_LIBRARY) and not isinstance(error, OF_THE_CODE):
        return False
    files = {file for file, _ in _lines_beyond(error)}
    return len(files) < (1 if isinstance(error, SyntaxError) else 2)


def call(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; where it can't be called so, the error says where it is defined."""
    try:
        return function(*args)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # of the call, and not in it
            raise Unfit(f"{error}{defined_at(function)}") from None
        raise


def defined_at(function: object) -> str:
    """` (acme.py, line 12)` of a function or a method; empty where it does not tell."""
    code = getattr(function, "__code__", None)
    return f" ({os.path.basename(code.co_filename)}, line {code.co_firstlineno})" if code else ""


def _lines_beyond(error: BaseException) -> list[tuple[str, int]]:
    """File and line of every frame, from the call on, that is neither this package's nor the standard library's."""
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    return [(file, line) for file, line in frames if _is_beyond(file)]


def _is_beyond(file: str) -> bool:
    """Whether code is neither this package's nor the standard library's, below which packages may be installed."""
    package, standard = (os.path.join(os.path.dirname(path), "") for path in (w8a8_bench.__file__, os.__file__))
    if file.startswith((package, "<")):  # of an import, or generated
        return False
    return not file.startswith(standard) or "-packages" in file[len(standard) :]
