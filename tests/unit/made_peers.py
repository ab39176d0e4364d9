"""What the tests of other libraries' kernels share: operands, judgement of a launch, an empty place to install in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from copies import replace
from made_devices import H200

from w8a8_bench.correctness.check import check, poison
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.correctness.returned_output import take_output
from w8a8_bench.problem import SCHEMES, Activations, GemmShape, Problem, Scaling
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import deepgemm, sglang, vllm

GPU = replace(H200, cuda=(13, 0))
LIBRARIES = ("vllm", "deep_gemm", "sgl_kernel")
EVEN = GemmShape(m=20, n=256, k=384)


def made(name: str, scheme: Scaling, shape: GemmShape = EVEN, activations=Activations.PREQUANTIZED) -> Operands:
    problem = problem_of(name, scheme, shape, activations)
    return OperandFactory(shape, "cpu", data=Distribution.OUTLIERS.value, seed=3).make(problem)


def judge(operands: Operands, launch, *, fast_accum: bool = False) -> str:
    """What is wrong with the answer of `launch`, written or returned; empty where nothing is."""
    poison(operands.out)
    take_output([launch()], 0, operands.out)
    return check(operands, Oracle(), fast_accum=fast_accum).reason


def legal(names: list[str], activations=Activations.PREQUANTIZED) -> list[tuple[str, Scaling]]:
    """Each name with every scheme that it has a meaning under."""
    found = []
    for name in names:
        parsed = KernelName.parse(name)
        for scheme in SCHEMES:
            problem = parsed.problem(EVEN, parsed.format, scheme, activations)
            if problem.why_illegal() is None and scheme.is_blockwise == parsed.is_blockwise:
                found.append((name, scheme))
    return found


def blockwise_product(a, w, scale_a, scale_b):
    """float64 [m,n]: a [m,k] scaled by 1x128, w [n,k] by 128x128."""
    k = a.shape[1]
    left = a.double() * scale_a.double().repeat_interleave(128, 1)[:, :k]
    rows = scale_b.double().repeat_interleave(128, 0)[: w.shape[0]]
    return left @ (w.double() * rows.repeat_interleave(128, 1)[:, :k]).t()


def problem_of(name: str, scheme: Scaling, shape: GemmShape, activations=Activations.PREQUANTIZED) -> Problem:
    parsed = KernelName.parse(name)
    return parsed.problem(shape, parsed.format, scheme, activations)


PER_TOKEN = Scaling.parse("channel-w-token-a")


@pytest.fixture
def site(monkeypatch, tmp_path) -> Iterator[Path]:
    """An empty directory on the path, and none of `LIBRARIES` but what is put there."""
    others = [place for place in sys.path if not any(Path(place or ".", name).exists() for name in LIBRARIES)]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *others])
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Let go of what was imported of the libraries."""
    vllm._operators.cache_clear()
    sglang._operators.cache_clear()
    deepgemm._load.cache_clear()
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] in LIBRARIES]:
        del sys.modules[name]


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
