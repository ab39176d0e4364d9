"""What a kernel answers, held against the seam of `kernel`: another's code is believed in nothing.

Each function asks one question and raises TypeError, with what was answered and what is expected, where the answer is
none. Whatever the kernel itself raises passes through.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping

from w8a8_bench.device import Device
from w8a8_bench.kernel import Kernel, Launches, Prepared, Support
from w8a8_bench.operands import Operands
from w8a8_bench.problem import Problem
from w8a8_bench.text import shown

NO_REASON = "refused, and no reason was given"

MOST_CONFIG = 1 << 16
"""Characters of a config as JSON: what was chosen, and no data."""


def support_of(kernel: Kernel, problem: Problem, device: Device) -> Support:
    """Whether `kernel` takes `problem` on `device`; a no always has a reason."""
    support = kernel.supports(problem, device)
    if not isinstance(support, Support):
        raise TypeError(f"supports() gave {shown(support)}: expected a Support: Support.yes() or Support.no(reason)")
    return support if support or support.reason else Support.no(NO_REASON)


def config_of(prepared: Prepared) -> dict[str, object]:
    """What was chosen, as JSON gives it back: text for keys, lists for tuples."""
    if not callable(getattr(prepared, "bind", None)):
        raise TypeError(f"prepare() gave {shown(prepared)}: expected an object with config and bind")
    try:
        config = prepared.config
    except AttributeError:
        if hasattr(type(prepared), "config"):
            raise  # of a property's own code
        raise TypeError(f"prepare() gave {shown(prepared)}: expected an object with config and bind") from None
    if not isinstance(config, Mapping):
        raise TypeError(f"config is {shown(config)}: expected a mapping, of names to what goes into JSON")
    written = {str(name): _written(f"config[{shown(name)}]", value) for name, value in config.items()}
    if sum(map(len, written.values())) > MOST_CONFIG:
        raise TypeError(f"config takes over {MOST_CONFIG} characters of JSON: expected what was chosen, and no data")
    return {name: json.loads(text) for name, text in written.items()}


def _written(what: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what} is {shown(value)}: expected what goes into JSON ({error})") from None


def launches_of(prepared: Prepared, operands: Operands) -> Launches:
    """The launches of one operand set, of functions that can be called as they will be."""
    bound = prepared.bind(operands)
    if not isinstance(bound, Launches):
        raise TypeError(f"bind() gave {shown(bound)}: expected Launches: Launches(launch)")
    for part in ("total", "quant", "gemm"):
        launch = getattr(bound, part)
        if launch is not None and (why := _why_not_called(launch)):
            raise TypeError(f"Launches: {part} can't be called without arguments: {why}{_place(launch)}")
    return bound


def _why_not_called(launch: object) -> str:
    try:
        inspect.signature(launch).bind()  # type: ignore[arg-type]
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""  # of compiled code, which does not tell
    return ""


def _place(launch: object) -> str:
    code = getattr(launch, "__code__", None)
    return f" ({os.path.basename(code.co_filename)}, line {code.co_firstlineno})" if code else ""
