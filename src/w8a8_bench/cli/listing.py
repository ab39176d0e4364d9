"""`list kernels|models|schemes`: what can be asked for. Imports no library."""

from __future__ import annotations

import argparse

from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.formats import W8A8_FORMATS
from w8a8_bench.names import KernelName
from w8a8_bench.problem import BLOCKWISE, SCHEMES
from w8a8_bench.providers import registry
from w8a8_bench.shapes.models import MODELS


def run(args: argparse.Namespace) -> int:
    lists = {"kernels": _kernels, "models": _models, "schemes": _schemes}
    if args.what not in lists:
        raise UsageError(f"list {args.what!r}: expected one of {', '.join(lists)}")
    print(lists[args.what]())
    return EXIT_COMPLETE


def _kernels() -> str:
    lines = []
    for provider in registry.PROVIDERS:
        built = "" if registry.is_built(provider) else "  (known names, not built in this version)"
        lines.append(f"{provider.name}{built}")
        for text in provider.kernels + provider.on_request:
            name = KernelName.parse(text)
            dtypes = " ".join(fmt.value for fmt in W8A8_FORMATS if name.serves(fmt))
            note = "  runs only when named" if text in provider.on_request else ""
            lines.append(f"  {text:<48} --dtype {dtypes}{note}".rstrip())
    return "\n".join(lines)


def _models() -> str:
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
