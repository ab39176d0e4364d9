"""One provider: the names of its kernels, whether its library is here, and the way from a name to a kernel.

A library that is missing or does not load is a reason to refuse (`LOADING`): a broken installation must not cost the
run of the others. Whatever else a provider raises is a fault of the provider.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Kernel, Prepared, Probe, Refused, Support
from w8a8_bench.problem import Problem
from w8a8_bench.providers.contract import LOADING, kernel_of, probe_of, with_place
from w8a8_bench.text import in_one_line, one_line


def pass_interrupts(error: BaseException) -> None:
    """Raise what a user's Ctrl-C raised. Everything else that a provider raises, SystemExit too, is caught."""
    if isinstance(error, KeyboardInterrupt):
        raise error


@contextlib.contextmanager
def printing_to_stderr(origin: str) -> Iterator[None]:
    """While the code of `origin` runs, send its standard output to standard error, also what C code prints.

    An interrupt says whose code ran.
    """
    with contextlib.suppress(AttributeError, ValueError):  # a kernel took standard output away or closed it
        sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"while the code of {origin} ran") from None
    finally:
        os.dup2(output, 1)
        os.close(output)


@dataclass(frozen=True, eq=False)
class Provider:
    """A library: what `kernel` describes as a provider's module, and the names of its kernels.

    name          first word of its kernels' names
    module        the module's name, imported when it is first asked for anything
    kernels       run by default, in this order
    on_request    run only when named
    package       what the module imports, and `distribution` what that is installed as: `probe` looks for them without
                  importing the module. Where it is empty, the module's own `probe` answers
    is_peer       another's library: its kernels are in a run by default only if it is installed
    origin        of a third party's: the distribution or file that it comes from
    fault         of a third party's: why its module can't be used; it then has no kernels
    unfit         the fault is none of `LOADING`: the module is no provider, and asking for it is bad input
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
        try:
            return self._probe()
        except BaseException as error:
            pass_interrupts(error)
            return Probe.broken(f"probe() raised {self.said(error)}")

    def _probe(self) -> Probe:
        """As `probe`, but raises a fault of the module's `probe`."""
        if self.fault:
            return Probe.broken(self.fault)
        try:
            probe = Probe.of(self.package, self.distribution) if self.package else self._asked(probe_of)
        except LOADING as error:
            return Probe.broken(f"probe() raised {self.said(error)}")
        return replace(probe, version=one_line(probe.version), reason=one_line(probe.reason))

    def source(self) -> str:
        """Of a third party's, a fingerprint of its module's file, which changes more often than a version does."""
        file = getattr(self.loaded, "__file__", None) if self.origin else None
        try:
            return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()[:16] if file else ""
        except OSError as error:
            return f"unknown: {error.strerror}"

    def make(self, name: str) -> Kernel:
        """The kernel called `name`, or one that refuses everything if the library is not here or does not load.

        Raises what else the module raises, and BrokenContract. Our own kernels say themselves what they miss:
        without a GPU they name the GPU and not a library.
        """
        probe = self._probe()
        if not probe and self.is_peer:
            return UnavailableKernel(name, probe.reason)
        try:
            kernel: Kernel = self._asked(lambda module: kernel_of(module, name))
        except Refused as error:
            return UnavailableKernel(name, in_one_line(error))
        except LOADING as error:
            return UnavailableKernel(name, f"{self.name} {probe.version} does not load: {self.said(error)}")
        return kernel

    def load(self) -> Probe:
        """As `probe`, but a kernel is made too: whether the library loads, and not only whether it is there."""
        probe = self.probe()
        if not probe or not self.kernels:
            return probe
        try:
            kernel = self.make(self.kernels[0])
        except BaseException as error:
            pass_interrupts(error)
            return Probe.broken(self.said(error))
        return Probe.broken(kernel.reason) if isinstance(kernel, UnavailableKernel) else probe

    def _asked(self, question: Callable[[Any], Any]) -> Any:
        """The module's answer. What it prints meanwhile is no part of anybody's output."""
        with printing_to_stderr(self.origin) if self.origin else contextlib.redirect_stdout(sys.stderr):
            return question(_import(self.module) if self.loaded is None else self.loaded)

    def said(self, error: BaseException) -> str:
        """What was raised; of a third party's, and the line of its file."""
        return with_place(error) if self.origin else in_one_line(error)


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
class UnavailableKernel:
    """Stands in for a kernel whose library is not here or does not load: it refuses every problem, and says why."""

    name: str
    reason: str

    def supports(self, problem: Problem, device: Device) -> Support:
        return Support.no(self.reason)

    def prepare(self, problem: Problem, device: Device) -> Prepared:
        raise RuntimeError(f"{self.name}: {self.reason}: ask `supports` first")
