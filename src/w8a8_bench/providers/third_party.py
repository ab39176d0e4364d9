"""Providers of third parties: installed ones by the entry-point group `w8a8_bench.providers`, files by a variable.

An entry point is called as its provider is, and names a module, or an object with the same members:

    [project.entry-points."w8a8_bench.providers"]
    acme = "acme_w8a8"

`W8A8_BENCH_PROVIDERS` holds paths of Python files, separated as in PATH; each is called as its provider is (`acme.py`).
Both are what `kernel` describes as a provider's module. They are imported here, for the names of their kernels.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from w8a8_bench.problem.kernel_name import KernelName, is_provider_name
from w8a8_bench.providers.errors import Unfit, is_mistake, with_place
from w8a8_bench.providers.provider import Provider, as_a_guest, ask_probe, pass_interrupts
from w8a8_bench.text import in_one_line, one_line, shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "w8a8_bench.providers"
FILES = "W8A8_BENCH_PROVIDERS"

NOTICE_S = 5.0
"""How long a module's top or its `probe` may take before the user is told what is waited for."""

EXPECTED = {
    "probe": "a function that returns Probe.found(version) or Probe.missing(reason)",
    "kernel": "a function of a name of KERNELS that returns the kernel called so",
}


def find(built_in: Collection[str]) -> tuple[Provider, ...]:
    """Every third party's provider: files first, then entry points by name. One that can't be used has a `fault`.

    `built_in` are names that are taken.
    """
    found: list[Provider] = []
    for name, origin, load in (*_files(), *sorted(_entry_points(), key=lambda entry: entry[0])):
        taken = [other.origin for other in found if other.name == name]
        if name in built_in:
            found.append(
                Provider(name, "", origin=origin, fault="a built-in provider has this name: rename it", unfit=True)
            )
        elif taken:
            found.append(
                Provider(name, "", origin=origin, fault=f"{taken[0]} has a provider of this name: drop one", unfit=True)
            )
        else:
            found.append(_read(name, origin, load))
    return tuple(found)


def _read(name: str, origin: str, load: Callable[[], Any]) -> Provider:
    """The provider that `load` yields, or one that says what is wrong with it."""
    try:
        with _as_a_watched_guest(origin):
            module = load()
        kernels, on_request = _names(name, module, "KERNELS"), _names(name, module, "ON_REQUEST")
        both = [name for name in kernels if name in on_request]
        if both:
            raise Unfit(f"kernel {both[0]!r} is in KERNELS and in ON_REQUEST: drop one")
        if not kernels:
            what = "is empty" if hasattr(module, "KERNELS") else "is missing"
            raise Unfit(f"KERNELS {what}: expected a tuple of the names of its kernels")
        for member in ("probe", "kernel"):
            if not callable(getattr(module, member, None)):
                raise Unfit(f"{member}() is missing: {EXPECTED[member]}")
        _try_probe(module, origin)
    except BaseException as error:
        pass_interrupts(error)
        return Provider(name, "", origin=origin, fault=with_place(error), unfit=is_mistake(error), is_peer=True)
    return Provider(name, str(module), kernels, on_request, is_peer=True, origin=origin, loaded=module)


@contextlib.contextmanager
def _as_a_watched_guest(origin: str) -> Iterator[None]:
    """`as_a_guest`, of what every command waits for: a crash shows its line, and after a while it is named."""
    notice = threading.Timer(NOTICE_S, os.write, (2, f"waiting for the code of {one_line(origin)}\n".encode()))
    notice.daemon = True
    notice.start()
    told = not faulthandler.is_enabled()
    if told:
        faulthandler.enable(2, all_threads=False)
    try:
        with as_a_guest(origin):
            yield
    finally:
        notice.cancel()
        if told:
            faulthandler.disable()


def _try_probe(module: Any, origin: str) -> None:
    """Raise what is a mistake in `probe`. That its library is not here or not whole, `Provider.probe` tells."""
    try:
        with _as_a_watched_guest(origin):
            ask_probe(module)
    except BaseException as error:
        if is_mistake(error):
            raise
        pass_interrupts(error)


def _names(provider: str, module: Any, which: str) -> tuple[str, ...]:
    """The kernels that a module lists; raises Unfit where a name is none, or another provider's."""
    names = getattr(module, which, ())
    if not isinstance(names, (tuple, list)):
        raise Unfit(f"{which} is {shown(names)}: expected a tuple of kernel names")
    for name in names:
        if not isinstance(name, str):
            raise Unfit(f"{which} has {shown(name)}: expected names of kernels")
        if names.count(name) > 1:
            raise Unfit(f"{which} has {shown(name)} twice: drop one")
        try:
            word = KernelName.parse(name).provider
        except ValueError as error:
            raise Unfit(str(error)) from None
        if word != provider:
            raise Unfit(f"kernel {name!r} is of provider {word!r}, and this one is called {provider!r}: rename one")
    return tuple(names)


def _files() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    for text in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        yield _stem(text), text, functools.partial(_load_file, text)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]  # pathlib would take longer to import than all of this to run


def _load_file(path: str) -> ModuleType:
    """Run a file as a module of a name of its own: one called `vllm.py` must not stand in the way of vllm."""
    if not os.path.exists(path):
        raise Unfit(f"there is no file {path} ({FILES} parts several by {os.pathsep!r})")
    if not is_provider_name(_stem(path)):
        raise Unfit(f"{path}: a provider's name is of small letters, digits and _, and so is its file's")
    spec = importlib.util.spec_from_file_location(f"w8a8_bench_provider_{_stem(path)}", path)
    if spec is None or spec.loader is None:
        raise Unfit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _entry_points() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, distribution and loader of every entry point of the group."""
    directories = list(_distributions())
    if not directories:
        return
    import importlib.metadata  # here, since it takes longer to import than everything else that `list` does

    seen = set()
    for directory in directories:
        distribution, _, version = _stem(directory).partition("-")
        if distribution in seen:
            continue  # another version further down the path, which imports do not reach either
        seen.add(distribution)
        origin = f"{distribution} {version}".rstrip()
        try:
            found = importlib.metadata.Distribution.at(directory).entry_points
            entries = [entry for entry in found if entry.group == GROUP]
        except Exception as error:  # its text is what the user gets to see
            yield distribution, origin, functools.partial(_fail, error)
            continue
        for entry in entries:
            yield entry.name, origin, functools.partial(_load_entry, entry)


def _load_entry(entry: EntryPoint) -> Any:
    """What an entry point names."""
    if not is_provider_name(entry.name):
        raise Unfit(f"its entry point is called {entry.name!r}: a provider's name is of small letters, digits and _")
    if not entry.pattern.fullmatch(entry.value):
        raise Unfit(f"its entry point is {f'{entry.name} = {entry.value}'!r}: expected the name of a module")
    try:
        found = entry.load()
    except ModuleNotFoundError as error:
        if f"{entry.module}.".startswith(f"{error.name}."):
            raise Unfit(f"its entry point names {entry.value!r}, and there is no module {error.name}") from None
        raise
    except AttributeError as error:
        if is_mistake(error) and entry.attr:
            raise Unfit(f"its entry point names {entry.value!r}: {in_one_line(error)}") from None
        raise
    if not isinstance(found, ModuleType) and not hasattr(found, "KERNELS"):
        raise Unfit(
            f"its entry point names {shown(found)}: expected a module, or an object with KERNELS, probe() and kernel()"
        )
    return found


def _fail(error: Exception) -> Any:
    raise error


def _distributions() -> Iterator[str]:
    """Metadata directories on the path whose entry points mention the group: about a millisecond for 40 packages."""
    for place in dict.fromkeys(sys.path):
        try:
            entries = sorted(os.scandir(place or "."), key=lambda entry: entry.name)
        except OSError:
            continue  # a path that is not there, or a zip file
        for entry in entries:
            if entry.name.endswith((".dist-info", ".egg-info")):
                try:
                    with open(os.path.join(entry.path, "entry_points.txt"), "rb") as file:
                        if GROUP.encode() in file.read():
                            yield entry.path
                except OSError:
                    continue  # most distributions have none
