"""A plain function of tensors as a kernel: it is called with the operands that its parameters name."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launches, Support
from w8a8_bench.problem import Azp, Problem
from w8a8_bench.problem.kernel_name import name_of
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.contract import BrokenContract, defined_at
from w8a8_bench.text import shown

Function = Callable[..., object]

BY_POSITION = ("a", "b", "scale_a", "scale_b", "azp", "azp_adj", "bias")
"""The order in which a function without a signature gets those operands that its problem has."""

OUT = "out"

_WITH_AZP = "pass azp='tensor' or azp='token' to have it"
REMEDIES = {"azp": _WITH_AZP, "azp_adj": _WITH_AZP, "bias": "pass bias=True to have it"}
"""What to do if a function requires a tensor that its problem does not have."""


@dataclass(frozen=True)
class FunctionKernel:
    """Kernel and prepared kernel in one: a function needs no preparation. `make_kernel` makes it.

    own_name     what the function calls itself
    by_position  the operands that it is called with by position, and `by_name` those by keyword
    """

    name: str
    function: Function
    own_name: str
    by_position: tuple[str, ...]
    by_name: tuple[str, ...]
    fast_accum: bool = False
    config: Mapping[str, object] = field(default_factory=dict)

    def supports(self, problem: Problem, device: Device) -> Support:
        return Support.yes()

    def prepare(self, problem: Problem, device: Device) -> FunctionKernel:
        return self

    def bind(self, operands: Operands) -> Launches:
        call = functools.partial(
            self.function,
            *(getattr(operands, name) for name in self.by_position),
            **{name: getattr(operands, name) for name in self.by_name},
        )
        return Launches(call if OUT in self.by_name + self.by_position else functools.partial(self._returning, call))

    def _returning(self, call: Callable[[], object]) -> object:
        """What a function returned that can't have written `out`, which it did not get."""
        import torch

        returned = call()
        if not isinstance(returned, torch.Tensor):
            place = defined_at(self.function)
            raise BrokenContract(
                f"{self.own_name}() returned {shown(returned)}: expected a tensor, or a parameter `out`{place}"
            )
        return returned


def make_kernel(
    function: Function, problem: Problem, *, fast_accum: bool = False, taken: Collection[str] = ()
) -> FunctionKernel:
    """`function` as a kernel for `problem`, with a provider's name that is made of the function's and is not `taken`.

    Raises ValueError if it can't be called with the operands of `problem`, or if no kernel can be called so.
    """
    if not callable(function) or isinstance(function, type):
        raise ValueError(f"function {shown(function)}: expected a function of tensors")
    own_name = _own_name(function)
    provider = _provider_name(own_name)
    while provider in taken:
        provider += "_function"
    by_position, by_name = _arguments(function, own_name, operand_names(problem))
    name = name_of(provider, problem, fast_accum=fast_accum)
    return FunctionKernel(name, function, own_name, by_position, by_name, fast_accum)


def operand_names(problem: Problem) -> tuple[str, ...]:
    """The tensors that `problem` has, by their fields in `Operands`; `out` is the last."""
    has_azp = problem.azp is not Azp.NONE
    has = {"azp": has_azp, "azp_adj": has_azp, "bias": problem.bias}
    return (*(name for name in BY_POSITION if has.get(name, True)), OUT)


def _own_name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _provider_name(own_name: str) -> str:
    """As much of a function's name as the grammar of kernels' names takes; `function` for a lambda."""
    words = "" if own_name == "<lambda>" else re.sub(r"[^a-z0-9]+", "_", own_name.lower()).strip("_")
    return words if re.match("[a-z]", words) else f"function_{words}".strip("_")


def _arguments(function: Function, own_name: str, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which of the operands `names` `function` takes by position, and which by keyword.

    Raises ValueError if it requires anything else.
    """
    inputs = tuple(name for name in names if name != OUT)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled code, as PyTorch's own operations, has none
        return inputs, ()
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    positional = [one for one in named if one.kind is not one.KEYWORD_ONLY]
    if not positional and any(one.kind is one.VAR_POSITIONAL for one in parameters):  # as a module's `__call__`
        return inputs, ()
    for one in named:
        if one.name not in names and one.default is one.empty:
            remedy = REMEDIES.get(one.name, "rename it, or give it a default")
            raise ValueError(
                f"{own_name}() requires {one.name!r}, and the tensors of this problem are {', '.join(names)}: {remedy}"
            )
    only_by_position = [one.name for one in positional if one.kind is one.POSITIONAL_ONLY]
    by_keyword = [one.name for one in named if one.kind is not one.POSITIONAL_ONLY and one.name in names]
    return tuple(takewhile(lambda name: name in names, only_by_position)), tuple(by_keyword)
