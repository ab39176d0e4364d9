"""Every kernel by name, without importing any library: rows of plain tuples, and one lazy import by name.

To add a kernel, add its name to its provider's row; to add a provider, add a row and a module with `kernel(name)`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from w8a8_bench.formats import Format
from w8a8_bench.kernel import Kernel
from w8a8_bench.names import KernelName


@dataclass(frozen=True)
class Provider:
    """A library: `module` is imported when one of its kernels is asked for, and offers `kernel(name) -> Kernel`.

    `kernels` run by default, in this order; those in `on_request` only when named.
    """

    name: str
    module: str
    kernels: tuple[str, ...]
    on_request: tuple[str, ...] = ()


PLANNED = "w8a8_bench.providers.planned"

PROVIDERS = (
    Provider(
        "pytorch",
        "w8a8_bench.providers.pytorch",
        (
            "pytorch_bf16_bf16_bf16_matmul-no-scales",
            "pytorch_fp16_fp16_fp16_matmul-no-scales",
            "pytorch_i8_i8_bf16_scaled_mm",
            "pytorch_i8_i8_bf16_scaled_mm_bias",
            "pytorch_i8_i8_bf16_scaled_mm_azp",
            "pytorch_i8_i8_bf16_scaled_mm_azp_bias",
            "pytorch_i8_i8_bf16_scaled_mm_azp_pt",
            "pytorch_i8_i8_bf16_scaled_mm_azp_pt_bias",
            "pytorch_fp8_fp8_fp16_scaled_mm",
            "pytorch_fp8_fp8_fp16_scaled_mm_fast_accum",
            "pytorch_fp8_fp8_bf16_scaled_mm",
            "pytorch_fp8_fp8_bf16_scaled_mm_fast_accum",
            "pytorch_fp8_fp8_bf16_scaled_mm_blockwise",
        ),
        on_request=("pytorch_bf16_bf16_bf16_matmul-no-scales_cast",),
    ),
    Provider(
        "cutlass",
        PLANNED,
        (
            "cutlass_i8_i8_bf16_scaled_mm",
            "cutlass_i8_i8_bf16_scaled_mm_bias",
            "cutlass_i8_i8_bf16_scaled_mm_azp",
            "cutlass_i8_i8_bf16_scaled_mm_azp_bias",
            "cutlass_i8_i8_bf16_scaled_mm_azp_pt",
            "cutlass_i8_i8_bf16_scaled_mm_azp_pt_bias",
            "cutlass_fp8_fp8_bf16_scaled_mm",
            "cutlass_fp8_fp8_fp16_scaled_mm",
            "cutlass_fp8_fp8_bf16_scaled_mm_bias",
            "cutlass_fp8_fp8_fp16_scaled_mm_bias",
            "cutlass_fp8_fp8_fp16_scaled_mm_blockwise",
        ),
    ),
    Provider("triton", PLANNED, ("triton_fp8_fp8_fp16_scaled_mm_blockwise",)),
)


def is_built(provider: Provider) -> bool:
    """Whether this version contains the provider's kernels, or only knows their names."""
    return provider.module != PLANNED


def provider_of(name: str) -> Provider:
    """The provider of a kernel; raises KeyError for an unknown name."""
    for provider in PROVIDERS:
        if name in provider.kernels or name in provider.on_request:
            return provider
    raise KeyError(name)


def get(name: str) -> Kernel:
    """The kernel called `name`. Imports its provider's module; raises KeyError for an unknown name."""
    module = importlib.import_module(provider_of(name).module)
    kernel: Kernel = module.kernel(name)
    return kernel


def names(formats: Iterable[Format], *, on_request: bool = False) -> tuple[str, ...]:
    """Kernels of a run over `formats`, in order; with `on_request` also those that run only when named."""
    wanted = tuple(formats)
    every = [name for provider in PROVIDERS for name in provider.kernels + (provider.on_request if on_request else ())]
    return tuple(name for name in every if any(KernelName.parse(name).serves(fmt) for fmt in wanted))


def select(requested: Sequence[str] | None, formats: Sequence[Format]) -> tuple[str, ...]:
    """The kernels that a run over `formats` measures: those requested, or all by default.

    Raises ValueError, with the nearest names, where a requested kernel is unknown or of another format.
    """
    if requested is None:
        return names(formats)
    known, everything = names(formats, on_request=True), names(tuple(Format), on_request=True)
    dtypes = " ".join(fmt.value for fmt in formats)
    for name in requested:
        if name in known:
            continue
        if name in everything:
            other = KernelName.parse(name).format.value
            raise ValueError(
                f"kernel {name!r} takes {other} operands, and this run is over {dtypes}: use --dtype {other}"
            )
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or difflib.get_close_matches(name, everything)
        hint = f"the nearest are {', '.join(near)}" if near else "`list kernels` names them all"
        raise ValueError(f"kernel {name!r} is unknown: {hint}")
    return tuple(dict.fromkeys(requested))
