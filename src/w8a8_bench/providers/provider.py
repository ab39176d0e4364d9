"""One provider: the names of its kernels, whether its library is here, and the way from a name to a kernel.

Whatever goes wrong in a provider's module or in its library ends here, as a reason: a broken installation must not cost
the run of the others.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from w8a8_bench.device import Device
from w8a8_bench.kernel import Kernel, Prepared, Probe, Support, in_one_line
from w8a8_bench.problem import Problem

ANY_FAULT = (Exception, SystemExit)
"""What a module may raise while it is imported or asked; some end the process where they mean to refuse."""


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
    loaded: Any = None
    """A third party's module, which was imported for its names, or the object that its entry point names."""

    def probe(self) -> Probe:
        """Version or reason. Never raises, and imports no library."""
        if self.fault:
            return Probe.broken(self.fault)
        try:
            answer = Probe.of(self.package, self.distribution) if self.package else self._module().probe()
        except ANY_FAULT as error:
            return Probe.broken(f"probe() raised {in_one_line(error)}")
        if not isinstance(answer, Probe):
            return Probe.broken(f"probe() gave {answer!r:.60}: expected a Probe")
        return answer

    def make(self, name: str) -> Kernel:
        """The kernel called `name`, or one that refuses everything because the library is not here or does not load.

        Our own kernels say themselves what they miss: where there is no GPU, that and not a library.
        """
        probe = self.probe()
        if not probe and self.is_peer:
            return Unavailable(name, probe.reason)
        try:
            kernel = self._module().kernel(name)
        except ANY_FAULT as error:
            return Unavailable(name, f"{self.name} {probe.version} does not load: {in_one_line(error)}")
        members = [getattr(kernel, member, None) for member in ("supports", "prepare")]
        if getattr(kernel, "name", None) != name or not all(map(callable, members)):
            return Unavailable(
                name, f"kernel() gave {kernel!r:.60}: expected an object with this name, supports and prepare"
            )
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

    def _module(self) -> Any:
        return _import(self.module) if self.loaded is None else self.loaded


@functools.cache
def _import_once(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ANY_FAULT as error:
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
