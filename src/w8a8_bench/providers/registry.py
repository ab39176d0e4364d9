"""Every kernel by name, without importing any library: rows of plain tuples, and one lazy import by name.

To add a kernel, add its name to its provider's row; to add a provider, add a row and a module as `kernel` describes it.
Providers of third parties come after the rows (`third_party`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterable, Sequence

from w8a8_bench.kernel import Kernel
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import third_party
from w8a8_bench.providers.provider import Provider

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
        package="torch",
    ),
    Provider(
        "cutlass",
        "w8a8_bench.providers.cutlass",
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
        on_request=(
            "cutlass_i8_i8_fp16_scaled_mm",
            "cutlass_i8_i8_fp16_scaled_mm_bias",
            "cutlass_i8_i8_fp16_scaled_mm_azp",
            "cutlass_i8_i8_fp16_scaled_mm_azp_bias",
            "cutlass_i8_i8_fp16_scaled_mm_azp_pt",
            "cutlass_i8_i8_fp16_scaled_mm_azp_pt_bias",
            "cutlass_fp8_fp8_bf16_scaled_mm_blockwise",
        ),
        package="cutlass",
        distribution="nvidia-cutlass-dsl",
    ),
    Provider(
        "triton",
        "w8a8_bench.providers.triton",
        (
            "triton_i8_i8_bf16_scaled_mm",
            "triton_i8_i8_bf16_scaled_mm_azp",
            "triton_fp8_fp8_bf16_scaled_mm",
            "triton_fp8_fp8_fp16_scaled_mm_blockwise",
        ),
        on_request=(
            "triton_i8_i8_bf16_scaled_mm_bias",
            "triton_i8_i8_bf16_scaled_mm_azp_bias",
            "triton_i8_i8_bf16_scaled_mm_azp_pt",
            "triton_i8_i8_bf16_scaled_mm_azp_pt_bias",
            "triton_i8_i8_fp16_scaled_mm",
            "triton_i8_i8_fp16_scaled_mm_bias",
            "triton_i8_i8_fp16_scaled_mm_azp",
            "triton_i8_i8_fp16_scaled_mm_azp_bias",
            "triton_i8_i8_fp16_scaled_mm_azp_pt",
            "triton_i8_i8_fp16_scaled_mm_azp_pt_bias",
            "triton_fp8_fp8_bf16_scaled_mm_bias",
            "triton_fp8_fp8_fp16_scaled_mm",
            "triton_fp8_fp8_fp16_scaled_mm_bias",
            "triton_fp8_fp8_bf16_scaled_mm_blockwise",
        ),
        package="triton",
    ),
    Provider(
        "cublaslt",
        "w8a8_bench.providers.cublaslt",
        (
            "cublaslt_i8_i8_bf16_scaled_mm",
            "cublaslt_fp8_fp8_bf16_scaled_mm",
            "cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum",
            "cublaslt_fp8_fp8_bf16_scaled_mm_blockwise",
        ),
        on_request=(
            "cublaslt_i8_i8_bf16_scaled_mm_bias",
            "cublaslt_fp8_fp8_bf16_scaled_mm_bias",
            "cublaslt_fp8_fp8_fp16_scaled_mm",
            "cublaslt_fp8_fp8_fp16_scaled_mm_bias",
            "cublaslt_fp8_fp8_fp16_scaled_mm_fast_accum",
        ),
        is_peer=True,
    ),
    Provider(
        "vllm",
        "w8a8_bench.providers.vllm",
        (
            "vllm_i8_i8_bf16_scaled_mm",
            "vllm_i8_i8_bf16_scaled_mm_bias",
            "vllm_i8_i8_bf16_scaled_mm_azp",
            "vllm_i8_i8_bf16_scaled_mm_azp_bias",
            "vllm_i8_i8_bf16_scaled_mm_azp_pt",
            "vllm_i8_i8_bf16_scaled_mm_azp_pt_bias",
            "vllm_fp8_fp8_bf16_scaled_mm",
            "vllm_fp8_fp8_fp16_scaled_mm",
            "vllm_fp8_fp8_bf16_scaled_mm_bias",
            "vllm_fp8_fp8_fp16_scaled_mm_bias",
            "vllm_fp8_fp8_bf16_scaled_mm_blockwise",
            "vllm_fp8_fp8_fp16_scaled_mm_blockwise",
        ),
        is_peer=True,
    ),
    Provider(
        "sglang",
        "w8a8_bench.providers.sglang",
        (
            "sglang_i8_i8_bf16_scaled_mm",
            "sglang_i8_i8_bf16_scaled_mm_bias",
            "sglang_fp8_fp8_bf16_scaled_mm",
            "sglang_fp8_fp8_bf16_scaled_mm_bias",
        ),
        on_request=(
            "sglang_i8_i8_fp16_scaled_mm",
            "sglang_i8_i8_fp16_scaled_mm_bias",
            "sglang_fp8_fp8_fp16_scaled_mm",
            "sglang_fp8_fp8_fp16_scaled_mm_bias",
            "sglang_fp8_fp8_bf16_scaled_mm_blockwise",
            "sglang_fp8_fp8_fp16_scaled_mm_blockwise",
        ),
        is_peer=True,
    ),
    Provider(
        "deepgemm",
        "w8a8_bench.providers.deepgemm",
        ("deepgemm_fp8_fp8_bf16_scaled_mm_blockwise",),
        is_peer=True,
    ),
    Provider(
        "inductor",
        "w8a8_bench.providers.inductor",
        on_request=(
            "inductor_i8_i8_bf16_scaled_mm",
            "inductor_i8_i8_bf16_scaled_mm_bias",
            "inductor_fp8_fp8_bf16_scaled_mm",
            "inductor_fp8_fp8_bf16_scaled_mm_fast_accum",
        ),
        package="torch",
    ),
    Provider(
        "flashinfer",
        "w8a8_bench.providers.flashinfer",
        on_request=("flashinfer_fp8_fp8_bf16_scaled_mm_blockwise",),
        package="flashinfer",
        distribution="flashinfer-python",
    ),
)


@functools.cache
def all_providers() -> tuple[Provider, ...]:
    """The rows above, then the third parties' that this process finds. Imports their modules, but no library."""
    return PROVIDERS + third_party.find([provider.name for provider in PROVIDERS])


def provider_of(name: str) -> Provider:
    """The provider of a kernel; raises KeyError for an unknown name.

    A third party's that can't be used has every kernel of its name, so that a row can say why.
    """
    for provider in all_providers():
        if name in provider.kernels or name in provider.on_request:
            return provider
    with contextlib.suppress(ValueError):  # no kernel's name at all
        provider = _by_name()[KernelName.parse(name).provider]
        if provider.fault:
            return provider
    raise KeyError(name)


def _by_name() -> dict[str, Provider]:
    """Where a third party's has a name that is taken, the name is the first one's."""
    by_name: dict[str, Provider] = {}
    for provider in all_providers():
        by_name.setdefault(provider.name, provider)
    return by_name


@functools.cache
def get(name: str) -> Kernel:
    """The kernel called `name`, made once. Imports its provider's module; raises KeyError for an unknown name."""
    return provider_of(name).make(name)


def versions() -> dict[str, str]:
    """Of every provider, for a run's environment: the version of its library, or why it is not to be had."""
    return {name: str(provider.probe()) for name, provider in _by_name().items()}


def sources() -> dict[str, str]:
    """Of every third party's provider that was read, for a run's environment: a fingerprint of its file."""
    return {name: source for name, provider in _by_name().items() if (source := provider.source())}


def names(
    formats: Iterable[Format], *, on_request: bool = False, of: Iterable[Provider] | None = None
) -> tuple[str, ...]:
    """Kernels of a run over `formats`, in order; with `on_request` also those that run only when named."""
    wanted = tuple(formats)
    rows = all_providers() if of is None else of
    every = [name for provider in rows for name in provider.kernels + (provider.on_request if on_request else ())]
    return tuple(name for name in every if any(KernelName.parse(name).serves(fmt) for fmt in wanted))


def select(
    requested: Sequence[str] | None, formats: Sequence[Format], providers: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The kernels that a run over `formats` measures: those requested, or those of the providers named, or all.

    Of all, a peer's that is not installed are left out; `remarks` tells. If all kernels of a provider run on request,
    its name asks for them. Raises ValueError, with the nearest names, for a kernel or a provider that is unknown, of
    another format, or left out by the other one of the two.
    """
    chosen = None if providers is None else _named(providers)
    if requested is None:
        if chosen is None:
            return names(formats, of=[p for p in all_providers() if not p.is_peer or p.probe().installed])
        found = tuple(name for p in chosen for name in names(formats, on_request=not p.kernels, of=[p]))
        if not found:
            why = [_why_unused(p) for p in chosen if p.fault]
            raise ValueError("; ".join(why) or f"no kernel of {_words(chosen)} takes {_tokens(formats)} operands")
        return found
    for name in requested:
        _refuse_unknown(name, formats)
        if chosen is not None and provider_of(name) not in chosen:
            raise ValueError(
                f"kernel {name!r} does not belong to {_words(chosen)}: leave it out, or add its provider to --providers"
            )
    return tuple(dict.fromkeys(requested))


def remarks(
    requested: Sequence[str] | None,
    formats: Sequence[Format],
    providers: Sequence[str] | None = None,
    *,
    cuda: bool = True,
) -> tuple[str, ...]:
    """What to say of providers before a run, a line each: which were asked for and can't run, and which are left out.

    On a CPU (`cuda` false) nothing is said of libraries that were not asked for: none of them runs there.
    Takes what `select` took without an error.
    """
    if requested is None and providers is None:
        absent = [(p, p.probe()) for p in all_providers() if p.is_peer and cuda]  # no CPU runs them, installed or not
        left_out = [f"{p.name} ({probe.reason})" for p, probe in absent if not probe.installed]
        lines = [f"left out: {', '.join(left_out)}"] if left_out else []
        return (*lines, *(_why_unused(p) for p in all_providers() if p.fault))
    asked = _named(providers) if providers is not None else tuple(dict.fromkeys(map(provider_of, requested or ())))
    lines = [_why_unused(p) for p in all_providers() if p.fault and p not in asked]
    for provider in asked:
        probe = provider.probe()
        if not probe:
            lines.append(f"{provider.name} can't run here: {probe.reason}")
        elif not names(formats, on_request=True, of=[provider]):
            lines.append(f"{provider.name} has no kernel that takes {_tokens(formats)} operands")
    return tuple(lines)


def _named(providers: Sequence[str]) -> tuple[Provider, ...]:
    by_name = _by_name()
    for name in providers:
        if name not in by_name:
            usable = [known for known, provider in by_name.items() if not provider.unfit]
            near = difflib.get_close_matches(name, usable, n=3)
            hint = f"the nearest are {', '.join(near)}" if len(near) > 1 else f"did you mean {near[0]}?" if near else ""
            hint = hint or f"expected one of {', '.join(usable)}{_how_to_add(name)}"
            raise ValueError(f"provider {name!r} is unknown: {hint}{_others_that_cannot_be_used()}")
    named = tuple(by_name[name] for name in dict.fromkeys(providers))
    for provider in named:
        _refuse_unfit(provider)
    return named


def _why_unused(provider: Provider) -> str:
    return f"{provider.name} (from {provider.origin}) can't be used: {provider.fault}"


def _refuse_unfit(provider: Provider) -> None:
    """Raise ValueError if a provider that was asked for by name is none, by a mistake in its module."""
    if provider.unfit:
        raise ValueError(_why_unused(provider))


def _refuse_unknown(name: str, formats: Sequence[Format]) -> None:
    """Raise ValueError if no kernel is called so, or if it takes none of `formats`."""
    try:
        _refuse_unfit(provider_of(name))
    except KeyError:
        known = names(formats, on_request=True)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        near = near or difflib.get_close_matches(name, names(tuple(Format), on_request=True))
        hint = f"the nearest are {', '.join(near)}" if near else "`list kernels` names them all"
        with contextlib.suppress(ValueError):  # no kernel's name at all
            if (provider := KernelName.parse(name).provider) not in _by_name():
                hint += _how_to_add(provider) + _others_that_cannot_be_used()
        raise ValueError(f"kernel {name!r} is unknown: {hint}") from None
    parsed = KernelName.parse(name)
    if not any(parsed.serves(fmt) for fmt in formats):
        other = parsed.format.value
        raise ValueError(
            f"kernel {name!r} takes {other} operands, and this run is for {_tokens(formats)}: use --dtype {other}"
        )


def _how_to_add(provider: str) -> str:
    return f"; for a provider in a file of its own, set {third_party.FILES}=PATH/{provider}.py"


def _others_that_cannot_be_used() -> str:
    """One of which may be what is meant: a file that is not there, or one that is called otherwise."""
    return "".join(f"; {_why_unused(provider)}" for provider in all_providers() if provider.fault)


def _words(providers: Iterable[Provider]) -> str:
    return ", ".join(provider.name for provider in providers)


def _tokens(formats: Iterable[Format]) -> str:
    return " ".join(fmt.value for fmt in formats)
