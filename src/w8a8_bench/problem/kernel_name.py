"""Kernel names: `{provider}_{a}_{b}_{out}_{op}[_{variant}]`, and the problem that a name stands for.

The original's names follow this grammar, so one parser serves them and every kernel added since. A provider is a word
of small letters and digits, or several joined by `_`; a, b and out are the last three words before the operation.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.formats import Format

MATMUL = "matmul-no-scales"
SCALED_MM = "scaled_mm"
CAST = "cast"

_FORMATS = {"i8": Format.INT8, "fp8": Format.FP8, "bf16": Format.BF16, "fp16": Format.FP16}
_VARIANTS = {
    "": (Azp.NONE, False),
    "bias": (Azp.NONE, True),
    "azp": (Azp.TENSOR, False),
    "azp_bias": (Azp.TENSOR, True),
    "azp_pt": (Azp.TOKEN, False),
    "azp_pt_bias": (Azp.TOKEN, True),
    "blockwise": (Azp.NONE, False),
    "fast_accum": (Azp.NONE, False),
    CAST: (Azp.NONE, False),
}
_PROVIDER = r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*"
_GRAMMAR = re.compile(
    rf"(?P<provider>{_PROVIDER})_(?P<a>i8|fp8|bf16|fp16)_(?P<b>i8|fp8|bf16|fp16)_(?P<out>bf16|fp16)"
    rf"_(?P<op>{SCALED_MM}|{MATMUL})(?:_(?P<variant>\w+))?"
)


def is_provider_name(text: str) -> bool:
    """Whether kernel names may begin with `text` as their provider."""
    return re.fullmatch(_PROVIDER, text) is not None


@dataclass(frozen=True)
class KernelName:
    """A kernel's name, taken apart."""

    text: str
    provider: str
    format: Format
    out: Format
    op: str
    variant: str

    @classmethod
    def parse(cls, text: str) -> KernelName:
        """Take `text` apart; raises ValueError if it does not follow the grammar."""
        match = _GRAMMAR.fullmatch(text)
        if not match:
            raise ValueError(
                f"kernel name {text!r}: expected {{provider}}_{{a}}_{{b}}_{{out}}_{{op}}[_{{variant}}], with provider "
                f"of small letters, digits and _, a and b one of {', '.join(_FORMATS)}, out bf16 or fp16, and op "
                f"{SCALED_MM} or {MATMUL}"
            )
        if match["a"] != match["b"]:
            raise ValueError(f"kernel name {text!r}: a is {match['a']} and b is {match['b']}: expected the same")
        variant = match["variant"] or ""
        known = [name for name in _VARIANTS if name and (name == CAST) == (match["op"] == MATMUL)]
        if variant not in ("", *known):
            raise ValueError(
                f"kernel name {text!r}: variant {variant!r} of {match['op']} is unknown: "
                f"expected one of {', '.join(known)}"
            )
        name = cls(text, match["provider"], _FORMATS[match["a"]], _FORMATS[match["out"]], match["op"], variant)
        if why := name._why_meaningless():
            raise ValueError(f"kernel name {text!r}: {why}")
        return name

    def _why_meaningless(self) -> str | None:
        """Why no problem has this name, although each part of it is valid; None if one has."""
        if self.variant == "fast_accum" and self.format is not Format.FP8:
            return "fast accumulation is of fp8 alone"
        return self.problem(GemmShape(m=1, n=1, k=1), self.format, self.default_scheme).why_illegal()

    @property
    def is_blockwise(self) -> bool:
        return self.variant == "blockwise"

    @property
    def is_baseline(self) -> bool:
        """A 16-bit product without scales, which any run can be compared with."""
        return self.op == MATMUL

    @property
    def casts_inside(self) -> bool:
        """The one twin that, like the original, casts 8-bit operands inside the timed region."""
        return self.variant == CAST

    @property
    def default_scheme(self) -> Scaling | None:
        if self.is_baseline:
            return None
        return BLOCKWISE if self.is_blockwise else PER_TENSOR

    def serves(self, fmt: Format) -> bool:
        """Whether a run over `fmt` operands (`--dtype`) includes this kernel."""
        return self.is_baseline or self.format is fmt

    def why_not_under(self, scaling: Scaling | None) -> str | None:
        """Why a scaled product of this name is not computed under a scheme; None if it is."""
        if scaling is None:
            return "scaled_mm needs a scaling scheme"
        if scaling.is_blockwise != self.is_blockwise:
            return f"{scaling} needs {'no ' if self.is_blockwise else 'a '}kernel named *_blockwise"
        return None

    def problem(
        self,
        shape: GemmShape,
        fmt: Format,
        scaling: Scaling | None,
        activations: Activations = Activations.PREQUANTIZED,
    ) -> Problem:
        """The problem that this name stands for under a scheme, in a run over `fmt` operands."""
        azp, bias = _VARIANTS[self.variant]
        if self.is_baseline:
            operands = fmt if self.casts_inside else self.format
            return Problem.of(shape=shape, format=operands, out=self.out, scaling=None)
        return Problem.of(
            shape=shape,
            format=self.format,
            out=self.out,
            scaling=scaling,
            azp=azp,
            bias=bias,
            activations=activations,
        )


def name_of(provider: str, problem: Problem, *, fast_accum: bool = False) -> str:
    """The name of the kernel of `provider` that computes `problem`, a scaled product.

    With `fast_accum`, the name of one that sums FP8 products in the tensor core's short accumulator. Raises ValueError
    if no name says that of `problem`.
    """
    facts = problem.azp, problem.bias
    variant = next(variant for variant, said in _VARIANTS.items() if said == facts)
    if problem.scaling == BLOCKWISE:
        variant = "blockwise"
    if fast_accum:
        if variant or problem.format is not Format.FP8:
            raise ValueError("fast accumulation: expected an fp8 problem without bias, whose scales are not blockwise")
        variant = "fast_accum"
    token = next(token for token, fmt in _FORMATS.items() if fmt is problem.format)
    name = f"{provider}_{token}_{token}_{problem.out.value}_{SCALED_MM}"
    return f"{name}_{variant}" if variant else name


def cell_text(kernel: str, problem: Problem) -> str:
    """How a cell is shown: the name alone at its defaults, else `name[scheme,activations]`.

    A name that does not follow the grammar, as one of a later version, has no default scheme: the scheme is shown.
    """
    return _cell_text(kernel, problem.scaling, problem.activations)


@functools.lru_cache(maxsize=4096)
def _cell_text(kernel: str, scaling: Scaling | None, activations: Activations) -> str:
    try:
        default = KernelName.parse(kernel).default_scheme
    except ValueError:
        default = None
    extra = []
    if scaling != default and scaling is not None:
        extra.append(scaling.name)
    if activations is not Activations.PREQUANTIZED:
        extra.append(activations.value)
    return f"{kernel}[{','.join(extra)}]" if extra else kernel


@functools.lru_cache(maxsize=1024)
def is_anchor(kernel: str) -> bool:
    """Whether a kernel is a library's 16-bit product, which a change of this code does not change: if its time moved,
    the machine did."""
    try:
        name = KernelName.parse(kernel)
    except ValueError:  # of a later version or another maker
        return False
    return name.is_baseline and name.provider == "pytorch" and not name.casts_inside


BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
"""The kernel that speed-ups are over."""
