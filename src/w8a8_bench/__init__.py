"""A stand-alone benchmark for W8A8 GEMMs: INT8 and FP8 weights and activations, on NVIDIA GPUs and CPUs.

`measure` checks and times a function of your own, `bench_int8` and `bench_fp8` are the functions of vLLM's script.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from w8a8_bench.bench.measure_function import measure
    from w8a8_bench.compat import bench_fp8, bench_int8

__version__ = "0.2.0"

__all__ = ["__version__", "bench_fp8", "bench_int8", "measure"]

_MODULES = {
    "bench_fp8": "w8a8_bench.compat",
    "bench_int8": "w8a8_bench.compat",
    "measure": "w8a8_bench.bench.measure_function",
}
"""The module of each function. It is imported when the function is first used, since the commands need none of them."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        why = importlib.import_module("w8a8_bench.bench.worker").NO_TORCH
        raise ModuleNotFoundError(why, name="torch") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
