"""What a kernel answers, held against the seam of `kernel`: another's code is believed in nothing.

Each function asks one question and raises Unfit where the answer is none: what was answered, what is expected, and the
line of the function that was asked. Whatever the kernel itself raises passes through.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Kernel, Launches, Prepared, Support
from w8a8_bench.problem import Problem
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.errors import Unfit, call, defined_at
from w8a8_bench.text import shown

NO_REASON = "refused, and no reason was given"

MOST_CONFIG = 1 << 16
"""Characters of a config as JSON: what was chosen, and no data."""


def support_of(kernel: Kernel, problem: Problem, device: Device) -> Support:
    """Whether `kernel` takes `problem` on `device`; a no always has a reason. What has no meaning it is not asked."""
    if reason := problem.why_illegal():
        return Support.no(reason)
    support = call(kernel.supports, problem, device)
    if not isinstance(support, Support):
        raise Unfit(
            f"supports() gave {shown(support)}: expected Support.yes() or Support.no(reason)"
            f"{defined_at(kernel.supports)}"
        )
    return support if support or support.reason else Support.no(NO_REASON)


def config_of(kernel: Kernel, prepared: Prepared) -> dict[str, object]:
    """What `kernel.prepare` chose, as JSON gives it back: text for keys, lists for tuples."""
    place = defined_at(kernel.prepare)
    if isinstance(prepared, type):
        raise Unfit(f"prepare() gave {shown(prepared)}: expected an object, not its class{place}")
    if not callable(getattr(prepared, "bind", None)):
        raise Unfit(f"prepare() gave {shown(prepared)}, which has no bind(): expected config and bind(){place}")
    try:
        config = prepared.config
    except AttributeError:
        if hasattr(type(prepared), "config"):
            raise  # of a property's own code
        raise Unfit(
            f"prepare() gave {shown(prepared)}, which has no config: expected config and bind(){place}"
        ) from None
    if not isinstance(config, Mapping):
        raise Unfit(f"config is {shown(config)}: expected a mapping, of names to what goes into JSON{place}")
    written = {str(name): _written(f"config[{shown(name)}]", value, place) for name, value in config.items()}
    if sum(map(len, written.values())) > MOST_CONFIG:
        raise Unfit(f"config takes over {MOST_CONFIG} characters of JSON: expected what was chosen, and no data{place}")
    return {name: json.loads(text) for name, text in written.items()}


def _written(what: str, value: object, place: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unfit(f"{what} is {shown(value)}: expected what goes into JSON ({error}){place}") from None


def launches_of(prepared: Prepared, operands: Operands) -> Launches:
    """The launches of one operand set, of functions that can be called as they will be."""
    bound = call(prepared.bind, operands)
    if not isinstance(bound, Launches):
        raise Unfit(f"bind() gave {shown(bound)}: expected Launches(launch){defined_at(prepared.bind)}")
    for part in ("total", "quant", "gemm"):
        launch = getattr(bound, part)
        if launch is not None and (why := _why_not_called(launch)):
            raise Unfit(f"Launches: {part} can't be called without arguments: {why}{defined_at(launch)}")
    return bound


def _why_not_called(launch: object) -> str:
    try:
        inspect.signature(launch).bind()  # type: ignore[arg-type]
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""  # of compiled code, which does not tell
    return ""
