"""Providers of third parties: installed ones by the entry-point group `w8a8_bench.providers`, files by a variable.

An entry point is called as its provider is, and names a module, or an object with the same members:

    [project.entry-points."w8a8_bench.providers"]
    acme = "acme_w8a8"

`W8A8_BENCH_PROVIDERS` holds paths of Python files, separated as in PATH; each is called as its provider is (`acme.py`).
Both are what `kernel` describes as a provider's module. They are imported here, for the names of their kernels.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from w8a8_bench.problem.kernel_name import KernelName, is_provider_name
from w8a8_bench.providers.contract import LOADING, BrokenContract, with_place
from w8a8_bench.providers.provider import Provider, pass_interrupts, printing_to_stderr
from w8a8_bench.text import shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "w8a8_bench.providers"
FILES = "W8A8_BENCH_PROVIDERS"


def find(built_in: Collection[str]) -> tuple[Provider, ...]:
    """Every third party's provider: files first, then entry points by name. One that can't be used has a `fault`.

    `built_in` are names that are taken.
    """
    found: list[Provider] = []
    taken = dict.fromkeys(built_in, "a built-in provider has this name: rename it")
    for name, origin, load in (*_files(), *sorted(_entry_points(), key=lambda entry: entry[0])):
        if name in taken:
            found.append(Provider(name, "", origin=origin, fault=taken[name], unfit=True))
        else:
            found.append(_read(name, origin, load))
            taken[name] = f"{origin} has a provider of this name: drop one"
    return tuple(found)


def _read(name: str, origin: str, load: Callable[[], Any]) -> Provider:
    """The provider that `load` yields, or one that says what is wrong with it."""
    try:
        with printing_to_stderr(origin):
            module = load()
        kernels, on_request = _names(name, module, "KERNELS"), _names(name, module, "ON_REQUEST")
        both = [name for name in kernels if name in on_request]
        if both:
            raise BrokenContract(f"kernel {both[0]!r} is in KERNELS and in ON_REQUEST: drop one")
        if not kernels:
            what = "is empty" if hasattr(module, "KERNELS") else "is missing"
            raise BrokenContract(f"KERNELS {what}: expected a tuple of the names of its kernels")
        for member in ("probe", "kernel"):
            if not callable(getattr(module, member, None)):
                raise BrokenContract(f"{member}() is missing")
    except BaseException as error:
        pass_interrupts(error)
        unfit = not isinstance(error, LOADING)
        return Provider(name, "", origin=origin, fault=with_place(error), unfit=unfit, is_peer=True)
    return Provider(name, str(module), kernels, on_request, is_peer=True, origin=origin, loaded=module)


def _names(provider: str, module: Any, which: str) -> tuple[str, ...]:
    """The kernels that a module lists; raises BrokenContract for a name outside the grammar, or of another provider."""
    names = getattr(module, which, ())
    if not isinstance(names, (tuple, list)):
        raise BrokenContract(f"{which} is {shown(names)}: expected a tuple of kernel names")
    for name in names:
        if not isinstance(name, str):
            raise BrokenContract(f"{which} has {shown(name)}: expected names of kernels")
        if names.count(name) > 1:
            raise BrokenContract(f"{which} has {shown(name)} twice: drop one")
        try:
            word = KernelName.parse(name).provider
        except ValueError as error:
            raise BrokenContract(str(error)) from None
        if word != provider:
            raise BrokenContract(
                f"kernel {name!r} is of provider {word!r}, and this one is called {provider!r}: rename one"
            )
    return tuple(names)


def _files() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    for text in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        yield _stem(text), text, functools.partial(_load_file, text)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]  # pathlib would take longer to import than all of this to run


def _load_file(path: str) -> ModuleType:
    """Run a file as a module of a name of its own: one called `vllm.py` must not stand in the way of vllm."""
    if not os.path.exists(path):
        raise BrokenContract(f"there is no file {path} ({FILES} parts several by {os.pathsep!r})")
    if not is_provider_name(_stem(path)):
        raise BrokenContract(f"{path}: a provider's name is of small letters, digits and _, and so is its file's")
    spec = importlib.util.spec_from_file_location(f"w8a8_bench_provider_{_stem(path)}", path)
    if spec is None or spec.loader is None:
        raise BrokenContract(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _entry_points() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, distribution and loader of every entry point of the group."""
    import importlib.metadata  # here, since it takes longer to import than everything else that `list` does

    seen = set()
    for distribution in importlib.metadata.distributions():
        entries = [entry for entry in distribution.entry_points if entry.group == GROUP]
        if entries and distribution.name not in seen:  # imports do not reach another version further down the path
            seen.add(distribution.name)
            for entry in entries:
                yield entry.name, f"{distribution.name} {distribution.version}", functools.partial(_load_entry, entry)


def _load_entry(entry: EntryPoint) -> Any:
    """The module or object that an entry point names."""
    if not is_provider_name(entry.name):
        raise BrokenContract(
            f"its entry point is called {entry.name!r}: a provider's name is of small letters, digits and _"
        )
    return entry.load()
