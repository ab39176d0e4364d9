"""FlashInfer as far as a CPU can show: operands as its kernel reads them, what is refused, an empty installation.

The library is a stand-in that reads the memory of its operands, as the real kernel does, and not their strides.
"""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from copies import replace
from made_devices import CPU
from made_peers import EVEN, GPU, blockwise_product, judge, made, problem_of, write

from w8a8_bench.kernel import CompileError, Probe
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape
from w8a8_bench.providers import flashinfer, registry

NAME = "flashinfer_fp8_fp8_bf16_scaled_mm_blockwise"


def fp8_blockscale_gemm_sm90(a, w, scale_a, scale_b, out):
    assert a.is_contiguous() and w.is_contiguous() and out.is_contiguous() and out.dtype is torch.bfloat16
    (m, k), n = a.shape, w.shape[0]
    assert scale_b.is_contiguous() and scale_b.shape == (-(-n // 128), k // 128)
    scale_a = scale_a.as_strided((k // 128, m), (-(-m // 4) * 4, 1)).t()
    out.copy_(blockwise_product(a, w, scale_a, scale_b))
    return out


GEMMS = SimpleNamespace(fp8_blockscale_gemm_sm90=fp8_blockscale_gemm_sm90)


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(flashinfer, "_load", lambda: GEMMS)
    monkeypatch.setattr(flashinfer, "probe", lambda: Probe.found("0.7.4"))


@pytest.mark.parametrize("m", [1, 3, 4, 20, 33])
def test_it_gets_its_operands_as_it_reads_them(library, m):
    operands = made(NAME, BLOCKWISE, GemmShape(m=m, n=192, k=384))
    prepared = flashinfer.kernel(NAME).prepare(operands.problem, CPU)
    assert judge(operands, prepared.bind(operands).total) == ""
    assert prepared.config == {"library": "FlashInfer 0.7.4"}


def test_it_is_compiled_in_prepare_and_not_later(library, monkeypatch):
    calls = []
    counting = SimpleNamespace(fp8_blockscale_gemm_sm90=lambda a, w, *others: calls.append((a.shape, w.shape)))
    monkeypatch.setattr(flashinfer, "_load", lambda: counting)
    operands = made(NAME, BLOCKWISE, EVEN)
    flashinfer.kernel(NAME).prepare(operands.problem, CPU).bind(operands)
    assert calls == [((EVEN.m, EVEN.k), (EVEN.n, EVEN.k))]


@pytest.mark.parametrize(("text", "kind"), [("Ninja build failed. no nvcc", CompileError), ("no GPU", RuntimeError)])
def test_an_extension_that_can_not_be_built_is_a_compile_error(library, monkeypatch, text, kind):
    def failing(*operands):
        raise RuntimeError(text)

    monkeypatch.setattr(flashinfer, "_load", lambda: SimpleNamespace(fp8_blockscale_gemm_sm90=failing))
    with pytest.raises(RuntimeError, match=text) as caught:
        flashinfer.kernel(NAME).prepare(problem_of(NAME, BLOCKWISE, EVEN), CPU)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("sizes", "device", "scheme", "says"),
    [
        ((1, 64, 128), GPU, BLOCKWISE, ""),
        ((1, 96, 128), GPU, BLOCKWISE, "n=96 is not a multiple of 64"),
        ((1, 64, 192), GPU, BLOCKWISE, "k=192 is not a multiple of 128"),
        ((1, 64, 128), GPU, PER_TENSOR, "not named *_blockwise"),
        ((1, 64, 128), replace(GPU, capability=(10, 0)), BLOCKWISE, "has 10.0"),
        ((1, 64, 128), CPU, BLOCKWISE, "has none"),
    ],
)
def test_its_limits_are_refused_with_the_value(library, sizes, device, scheme, says):
    m, n, k = sizes
    reason = flashinfer.kernel(NAME).supports(problem_of(NAME, scheme, GemmShape(m=m, n=n, k=k)), device).reason
    assert says in reason and bool(reason) == bool(says)


def test_it_does_not_quantize_and_says_so(library):
    problem = problem_of(NAME, BLOCKWISE, EVEN, Activations.DYNAMIC)
    assert "quantized already" in flashinfer.kernel(NAME).supports(problem, GPU).reason


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A directory that is looked through before all others; what was imported from it is let go of."""
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "flashinfer"]:
        del sys.modules[name]


(PROVIDER,) = (one for one in registry.PROVIDERS if one.name == "flashinfer")


def asked_of_the_registry() -> str:
    return PROVIDER.make(NAME).supports(problem_of(NAME, BLOCKWISE, EVEN), GPU).reason


def test_one_that_is_not_installed_is_named_as_pip_does(site, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert asked_of_the_registry() == "flashinfer-python is not installed"


def test_one_that_does_not_load_says_why(site):
    write(site / "flashinfer" / "__init__.py")
    write(site / "flashinfer" / "gemm.py", "import a_part_of_it_that_is_missing")
    assert "a_part_of_it_that_is_missing" in asked_of_the_registry()


def test_one_that_loads_is_asked(site):
    write(site / "flashinfer" / "__init__.py")
    write(site / "flashinfer" / "gemm.py", "fp8_blockscale_gemm_sm90 = print")
    assert asked_of_the_registry() == ""
