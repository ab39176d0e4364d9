"""One provider: the names of its kernels, whether its library is here, and the way from a name to a kernel.

Whatever goes wrong in a provider's module or in its library ends here, as a reason: a broken installation must not cost
the run of the others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Kernel, Prepared, Probe, Refused, Support
from w8a8_bench.problem import Problem
from w8a8_bench.providers.errors import Unfit, call, defined_at, is_mistake, with_place
from w8a8_bench.text import in_one_line, one_line, shown


def pass_interrupts(error: BaseException) -> None:
    """Raise what a user's Ctrl-C raised. Whatever else a module raises, as some do that mean to refuse, is a reason."""
    if isinstance(error, KeyboardInterrupt):
        raise error


class _Borrowed(io.TextIOBase):
    """A stream that its borrower can't close."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self.flush()


@contextlib.contextmanager
def as_a_guest(origin: str) -> Iterator[None]:
    """While another's module runs in this process: what it prints, by whatever way, is no part of anybody's output, and
    this process stays in its directory and is not ended. An interrupt says whose code ran."""
    try:
        where = os.getcwd()
    except OSError:
        where = ""  # it was removed
    with contextlib.suppress(AttributeError, ValueError):  # one that a kernel took away or closed
        sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(_Borrowed(sys.stderr)), _not_ended():
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"while the code of {origin} ran") from None
    finally:
        os.dup2(output, 1)
        os.close(output)
        if where:
            os.chdir(where)


@contextlib.contextmanager
def _not_ended() -> Iterator[None]:
    """Have `os._exit` raise SystemExit in this process: who asks for kernels is told why there are none."""
    ends, this = os._exit, os.getpid()

    def raises(status: int) -> NoReturn:
        if os.getpid() != this:
            ends(status)  # of a process that was forked meanwhile
        raise SystemExit(f"os._exit({status})")

    os._exit = raises
    try:
        yield
    finally:
        os._exit = ends


@dataclass(frozen=True, eq=False)
class Provider:
    """A library: what `kernel` describes as a provider's module, and the names of its kernels.

    name          first word of its kernels' names
    module        the module's name, imported when it is first asked for anything
    kernels       run by default, in this order
    on_request    run only when named
    package       what the module imports, and `distribution` what that is installed as: `probe` looks for them without
                  importing the module. Where it is empty, the module's own `probe` answers
    is_peer       another's library: its kernels are in a run by default only where it is installed
    origin        of a third party's: the distribution or file that it comes from
    fault         of a third party's: why its module can't be used; it then has no kernels
    unfit         the fault is a mistake in the module's own lines, and not a library that does not load
    """

    name: str
    module: str
    kernels: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    package: str = ""
    distribution: str = ""
    is_peer: bool = False
    origin: str = ""
    fault: str = ""
    unfit: bool = False
    loaded: Any = None
    """A third party's module, which was imported for its names, or the object that its entry point names."""

    def probe(self) -> Probe:
        """Version or reason. Never raises, and imports no library."""
        if self.fault:
            return Probe.broken(self.fault)
        try:
            answer = Probe.of(self.package, self.distribution) if self.package else self._asked(ask_probe)
            return replace(answer, version=one_line(answer.version), reason=one_line(answer.reason))
        except BaseException as error:
            pass_interrupts(error)
            return Probe.broken(f"probe() raised {self._said(error)}")

    def source(self) -> str:
        """Of a third party's, a fingerprint of its module's file, which changes more often than a version does."""
        file = getattr(self.loaded, "__file__", None) if self.origin else None
        try:
            return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()[:16] if file else ""
        except OSError as error:
            return f"unknown: {error.strerror}"

    def make(self, name: str) -> Kernel:
        """The kernel called `name`; one that refuses everything where the library is not here or does not load; or one
        that raises where the module's own lines made none.

        Our own kernels say themselves what they miss: where there is no GPU, that and not a library.
        """
        probe = self.probe()
        if not probe and self.is_peer:
            return Unavailable(name, probe.reason)
        try:
            kernel = self._asked(lambda it: _ask_kernel(it, name))
        except BaseException as error:
            pass_interrupts(error)
            if isinstance(error, Refused):
                return Unavailable(name, in_one_line(error))
            if self.origin and is_mistake(error):
                return NoKernel(name, with_place(error))
            return Unavailable(name, f"{self.name} {probe.version} does not load: {self._said(error)}")
        made: Kernel = kernel
        return made

    def load(self) -> Probe:
        """As `probe`, but a kernel is made too: whether the library loads, and not only whether it is there."""
        probe = self.probe()
        if probe and self.kernels:
            kernel = self.make(self.kernels[0])
            if isinstance(kernel, Unavailable):
                return Probe.broken(kernel.reason)
        return probe

    def _asked(self, question: Callable[[Any], Any]) -> Any:
        """The module's answer. What it prints meanwhile is no part of anybody's output."""
        with as_a_guest(self.origin) if self.origin else contextlib.redirect_stdout(sys.stderr):
            return question(self._module())

    def _said(self, error: BaseException) -> str:
        return with_place(error) if self.origin else in_one_line(error)

    def _module(self) -> Any:
        return _import(self.module) if self.loaded is None else self.loaded


@functools.cache
def _import_once(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except BaseException as error:
        pass_interrupts(error)
        return error


def _import(module: str) -> Any:
    """The module. One that raised is not tried again, which may take as long each time; its error is raised anew."""
    found = _import_once(module)
    if isinstance(found, BaseException):
        raise found
    return found


@dataclass(frozen=True, eq=False)
class Unavailable:
    """Stands in for a kernel whose library is not here or does not load: it refuses every problem, and says why."""

    name: str
    reason: str

    def supports(self, problem: Problem, device: Device) -> Support:
        return Support.no(self.reason)

    def prepare(self, problem: Problem, device: Device) -> Prepared:
        raise RuntimeError(f"{self.name}: {self.reason}: ask `supports` first")


@dataclass(frozen=True, eq=False)
class NoKernel(Unavailable):
    """Stands in for a kernel that its provider's own code did not make: a fault, not a library that is not here."""

    def supports(self, problem: Problem, device: Device) -> Support:
        raise Unfit(self.reason)


def ask_probe(module: Any) -> Probe:
    """What a provider's module answers. Raises what it raises, and Unfit where that is no Probe."""
    answer = call(module.probe)
    if not isinstance(answer, Probe):
        place = defined_at(module.probe)
        raise Unfit(f'probe() gave {shown(answer)}: expected a Probe, as Probe.of("a module") gives{place}')
    return answer


def _ask_kernel(module: Any, name: str) -> Any:
    """The kernel that a provider's module makes. Raises what it raises, and Unfit where that is no kernel."""
    kernel = call(module.kernel, name)
    if wrong := _why_no_kernel(kernel, name):
        raise Unfit(f"kernel() gave {shown(kernel)}: {wrong}{defined_at(module.kernel)}")
    return kernel


def _why_no_kernel(kernel: Any, name: str) -> str:
    """What a kernel has that this lacks; empty where it lacks nothing."""
    if isinstance(kernel, type):
        return "expected an object, not its class"
    if not hasattr(kernel, "name"):
        return f"expected an object whose name is {name!r}, and it has none"
    if kernel.name != name:
        return f"expected an object whose name is {name!r}, and it is {shown(kernel.name)}"
    missing = [member for member in ("supports", "prepare") if not callable(getattr(kernel, member, None))]
    return f"it has no {' and no '.join(f'{member}()' for member in missing)}" if missing else ""
