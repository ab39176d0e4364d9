"""Everything that a provider returns is validated against the protocols of `kernel`.

Each function asks one question and raises BrokenContract for a wrong answer: what was answered, what is expected, and
the line of the function that was asked. What the provider itself raises passes through, for `with_place` to tell.
"""

from __future__ import annotations

import importlib
import json
import os
import traceback
from collections.abc import Mapping
from typing import Any

import w8a8_bench
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Kernel, Launches, Prepared, Probe, Refused, Support
from w8a8_bench.problem import Problem
from w8a8_bench.problem.operands import Operands
from w8a8_bench.text import in_one_line, one_line, shown

LOADING = (ImportError, OSError, RuntimeError, Refused)
"""Raised by a provider's module, by `probe` or by `kernel(name)`, one of these says that the library does not load: its
kernels are `unsupported`. Whatever else is raised makes them `failed`."""

BETWEEN = tuple(os.path.join(os.path.dirname(str(module.__file__)), "") for module in (w8a8_bench, importlib))
TORCH = os.path.join("-packages", "torch", "")
"""Files that stand between this package and a provider's file: our own, those that import, and those of torch."""

NO_REASON = "refused, and no reason was given"


class BrokenContract(TypeError):
    """What a provider returned breaks the protocol. The text says so without the name of the exception."""


def with_place(error: BaseException) -> str:
    """What was raised, as one line, and the line of the provider's file: `KeyError: 'tile' (acme.py, line 12)`.

    That file is the first one that this package called into.
    """
    said = one_line(str(error)) if isinstance(error, BrokenContract) else in_one_line(error)
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [(file, line) for file, line in lines if not file.startswith(("<", *BETWEEN)) and TORCH not in file]
    if not lines:
        return said
    own = lines[0][0]
    return f"{said} ({os.path.basename(own)}, line {[line for file, line in lines if file == own][-1]})"


def defined_at(function: object) -> str:
    """` (acme.py, line 12)` of a function or a method; empty if it is not written in Python."""
    code = getattr(function, "__code__", None)
    return f" ({os.path.basename(code.co_filename)}, line {code.co_firstlineno})" if code else ""


def probe_of(module: Any) -> Probe:
    """Whether the library of a provider's module is here."""
    probe = module.probe()
    if not isinstance(probe, Probe):
        raise BrokenContract(
            f'probe() gave {shown(probe)}: expected a Probe, as Probe.of("a module") gives{defined_at(module.probe)}'
        )
    return probe


def kernel_of(module: Any, name: str) -> Kernel:
    """The kernel that a provider's module makes."""
    kernel: Kernel = module.kernel(name)
    callables = [callable(getattr(kernel, member, None)) for member in ("supports", "prepare")]
    if isinstance(kernel, type) or not all(callables) or kernel.name != name:
        expected = f"an object with the name {name!r}, supports() and prepare()"
        raise BrokenContract(f"kernel() gave {shown(kernel)}: expected {expected}{defined_at(module.kernel)}")
    return kernel


def support_of(kernel: Kernel, problem: Problem, device: Device) -> Support:
    """Whether `kernel` takes `problem` on `device`; a no always has a reason. What has no meaning it is not asked."""
    if reason := problem.why_illegal():
        return Support.no(reason)
    support = kernel.supports(problem, device)
    if not isinstance(support, Support):
        raise BrokenContract(
            f"supports() gave {shown(support)}: expected Support.yes() or Support.no(reason)"
            f"{defined_at(kernel.supports)}"
        )
    return support if support or support.reason else Support.no(NO_REASON)


def config_of(kernel: Kernel, prepared: Prepared) -> dict[str, object]:
    """What `kernel.prepare` chose, as JSON gives it back: text for keys, lists for tuples."""
    place = defined_at(kernel.prepare)
    if isinstance(prepared, type) or not callable(getattr(prepared, "bind", None)):
        raise BrokenContract(f"prepare() gave {shown(prepared)}: expected an object with config and bind(){place}")
    config = prepared.config
    if not isinstance(config, Mapping):
        raise BrokenContract(f"config is {shown(config)}: expected a mapping, of names to what goes into JSON{place}")
    try:
        text = json.dumps({str(name): value for name, value in config.items()}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BrokenContract(f"config is {shown(config)}: expected what goes into JSON ({error}){place}") from None
    written: dict[str, object] = json.loads(text)
    return written


def launches_of(prepared: Prepared, operands: Operands) -> Launches:
    """The launches of one operand set."""
    bound = prepared.bind(operands)
    if not isinstance(bound, Launches):
        raise BrokenContract(f"bind() gave {shown(bound)}: expected Launches(launch){defined_at(prepared.bind)}")
    return bound


BUILD_S = 2.0
"""About how long a build takes if its kernel does not say."""


def build_key_of(kernel: Kernel, problem: Problem, device: Device) -> str | None:
    """What a kernel must compile for a problem that it supports; None if nothing, or if it does not say."""
    ask = getattr(kernel, "build_key", None)
    if ask is not None and not callable(ask):
        raise BrokenContract(f"build_key is {shown(ask)}: expected a method build_key(problem, device)")
    key = ask(problem, device) if ask else None
    if key is not None and not isinstance(key, str):
        raise BrokenContract(f"build_key() gave {shown(key)}: expected text or None{defined_at(ask)}")
    return key


def build_s_of(kernel: Kernel) -> float:
    """About how many seconds one of its builds takes."""
    seconds = getattr(kernel, "build_s", BUILD_S)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise BrokenContract(f"build_s is {shown(seconds)}: expected a number of seconds")
    return float(seconds)
