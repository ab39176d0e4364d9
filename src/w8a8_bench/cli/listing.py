"""`list kernels|providers|models|schemes`: what can be asked for. Imports no library."""

from __future__ import annotations

import argparse

from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.problem import BLOCKWISE, SCHEMES
from w8a8_bench.problem.formats import W8A8_FORMATS
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry
from w8a8_bench.providers.provider import Provider
from w8a8_bench.text import aligned


def run(args: argparse.Namespace) -> int:
    lists = {"kernels": _kernels, "providers": _providers, "models": _models, "schemes": _schemes}
    if args.what not in lists:
        raise UsageError(f"list {args.what!r}: expected one of {', '.join(lists)}")
    print(lists[args.what]())
    return EXIT_COMPLETE


def _kernels() -> str:
    lines = []
    for provider in registry.all_providers():
        lines.append(f"{provider.name}{_about(provider)}")
        for text in provider.kernels + provider.on_request:
            name = KernelName.parse(text)
            dtypes = " ".join(fmt.value for fmt in W8A8_FORMATS if name.serves(fmt))
            note = "  runs only when named" if text in provider.on_request else ""
            lines.append(f"  {text:<48} --dtype {dtypes}{note}".rstrip())
    return "\n".join(lines)


def _about(provider: Provider) -> str:
    if provider.fault:
        return f"  (from {provider.origin}, can't be used: {provider.fault})"
    return f"  (from {provider.origin})" if provider.origin else ""


def _providers() -> str:
    """A line a provider: version of its library, number of kernels, and whether it is installed or why not."""
    rows = [("provider", "version", "kernels", "here")]
    for provider in registry.all_providers():
        probe = provider.probe()
        count = len(provider.kernels) + len(provider.on_request)
        origin = f" (from {provider.origin})" if provider.origin else ""
        state = "installed" if probe else f"no: {probe.reason}"
        rows.append((provider.name, probe.version or "-", str(count), state + origin))
    return "\n".join(aligned(rows, left=(0, 1, 3)))


def _models() -> str:
    from w8a8_bench.shapes.models import MODELS  # a large table, which no other list needs

    lines = []
    for model, layers in MODELS.items():
        lines.append(model)
        for layer in layers:
            split = f"TP splits {layer.split}" if layer.split else "replicated under TP"
            count = f"{layer.count} x" if layer.count is not None else ""
            lines.append(f"  {count:>5} {layer.name:<28} k={layer.k:<6} n={layer.n:<7} {split}")
    return "\n".join(lines)


def _schemes() -> str:
    units = {"tensor": "one", "channel": "one an output feature", "block": "one a 128x128 block"}
    acts = {"tensor": "one", "token": "one a token", "group": "one a token and 128 input features"}
    lines = []
    for scheme in SCHEMES:
        dtypes = "fp8" if scheme == BLOCKWISE else "int8 fp8"
        weight, act = units[scheme.weight.value], acts[scheme.activation.value]
        lines.append(f"{scheme.name:<20} --dtype {dtypes:<9} weight scales: {weight}; activation scales: {act}")
    return "\n".join(lines)
