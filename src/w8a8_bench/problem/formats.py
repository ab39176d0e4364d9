"""Number formats of operands and outputs, and the facts about them that the arithmetic needs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

FP8_MAX = 448.0
"""Largest finite magnitude of float8_e4m3fn (OCP 8-bit floating point specification 1.0, table 1)."""


class Format(str, Enum):
    """An element format: `int8` and `fp8` (E4M3) for W8A8 operands, `bf16` and `fp16` for baselines and outputs."""

    INT8 = "int8"
    FP8 = "fp8"
    BF16 = "bf16"
    FP16 = "fp16"

    @property
    def torch_name(self) -> str:
        """Name of the dtype in `torch`, without the module: `getattr(torch, fmt.torch_name)`."""
        return _TORCH_NAMES[self]

    @property
    def n_bytes(self) -> int:
        return 1 if self in W8A8_FORMATS else 2

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest in this format: 2**-p for a significand of p bits.

        Only floating-point outputs round this way; raises ValueError for the others.
        """
        if self is Format.BF16:
            return 2.0**-8
        if self is Format.FP16:
            return 2.0**-11
        raise ValueError(f"format {self.value!r} is no output format: expected bf16 or fp16")


W8A8_FORMATS = (Format.INT8, Format.FP8)
OUT_FORMATS = (Format.BF16, Format.FP16)

_TORCH_NAMES = {
    Format.INT8: "int8",
    Format.FP8: "float8_e4m3fn",
    Format.BF16: "bfloat16",
    Format.FP16: "float16",
}


def dtype_text(formats: Iterable[Format]) -> str:
    """The dtype as the original writes it in labels and file names: `torch.int8`."""
    return "+".join(f"torch.{fmt.torch_name}" for fmt in formats)
