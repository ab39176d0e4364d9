"""Commands to type next, written so that they work when pasted into the shell that they are printed in."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import w8a8_bench
from w8a8_bench.providers import third_party

COMMAND = "w8a8-bench"


def command(prog: str, *words: str) -> str:
    """This program with `words`, as one line of shell: started as it was, in the same environment.

    `prog` is what it was started as: `w8a8-bench`, or the name of the original's script. Variables that decide what is
    imported are repeated, since whoever started this program (`make`, say) may have set them for it alone.
    """
    names = [third_party.FILES, *([] if is_script(prog) else ["PYTHONPATH"] if _is_from_pythonpath() else [])]
    variables = [f"{name}={value}" for name in names if (value := os.environ.get(name))]
    start = [_python(), sys.argv[0]] if is_script(prog) else _start()
    return shlex.join([*(["env", *variables] if variables else []), *start, *words])


def is_script(prog: str) -> bool:
    """Whether this is the original's script, whose users read its tables and pickles."""
    return prog.endswith(".py")


def lines(text: str, width: int | None) -> list[str]:
    """A line that ends in a command, broken for the shell (a backslash at the end) if it is wider than `width`."""
    made, line = [], ""
    for word in text.split(" "):
        if width is not None and line and len(line) + len(word) + 3 > width:
            made.append(line + " \\")
            line = "    " + word
        else:
            line = f"{line} {word}" if line else word
    return [*made, line]


def _start() -> list[str]:
    """The installed command if the shell finds this environment's, else this Python with the package."""
    found = shutil.which(COMMAND)
    return [COMMAND] if found and _directory(found) == _directory(sys.executable) else [_python(), "-m", "w8a8_bench"]


def _python() -> str:
    """This Python by the shortest name that the shell finds it under. A link is not followed: it is the environment."""
    for name in ("python3", "python"):
        found = shutil.which(name)
        if found and _directory(found) == _directory(sys.executable):
            return name
    here = os.path.relpath(sys.executable)
    return sys.executable if here.startswith(os.pardir) else here


def _is_from_pythonpath() -> bool:
    source = Path(w8a8_bench.__file__).resolve().parents[1]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return any(path and Path(path).resolve() == source for path in paths)


def _directory(executable: str) -> str:
    return os.path.realpath(os.path.dirname(os.path.abspath(executable)))
