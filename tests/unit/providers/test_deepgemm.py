"""DeepGEMM as far as a CPU can show: whose copy is found, layouts as it reads them, refusals.

The library is a stand-in that insists on what the real one documents, and computes from what it is given.
"""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from copies import replace
from made_devices import CPU
from made_peers import EVEN, GPU, blockwise_product, judge, made, problem_of, site, write

from w8a8_bench.kernel import Probe
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape
from w8a8_bench.providers import deepgemm, vllm

__all__ = ["site"]  # a fixture


DEEPGEMM = "deepgemm_fp8_fp8_bf16_scaled_mm_blockwise"


def is_tma_aligned(scale) -> bool:
    return scale.stride(0) == 1 and scale.stride(1) % 4 == 0 and scale.stride(1) >= scale.shape[0]


def fp8_gemm_nt(a, w, out):
    (a, scale_a), (w, scale_b) = a, w
    assert a.stride(1) == 1 and w.stride(1) == 1 and out.stride(1) == 1 and out.dtype is torch.bfloat16
    assert is_tma_aligned(scale_a), "it would be converted in every call"
    assert scale_b.is_contiguous() and scale_b.shape == (-(-w.shape[0] // 128), -(-w.shape[1] // 128))
    out.copy_(blockwise_product(a, w, scale_a, scale_b))


LIBRARY = SimpleNamespace(
    fp8_gemm_nt=fp8_gemm_nt,
    get_mn_major_tma_aligned_tensor=lambda scale: scale if is_tma_aligned(scale) else scale.clone(),
)


@pytest.mark.parametrize("m", [1, 3, 4, 20])
def test_deepgemm_gets_its_operands_as_it_reads_them(m):
    operands = made(DEEPGEMM, BLOCKWISE, GemmShape(m=m, n=192, k=384))
    assert judge(operands, deepgemm.bind(LIBRARY, operands).total) == ""


def test_deepgemm_is_compiled_in_prepare_and_not_later(monkeypatch):
    calls = []
    library = SimpleNamespace(
        fp8_gemm_nt=lambda a, w, out: calls.append(tuple(out.shape)),
        get_mn_major_tma_aligned_tensor=LIBRARY.get_mn_major_tma_aligned_tensor,
    )
    monkeypatch.setattr(deepgemm, "_load", lambda: library)
    monkeypatch.setattr(deepgemm, "probe", lambda: Probe.found("2.5.0"))
    bound = deepgemm.kernel(DEEPGEMM).prepare(problem_of(DEEPGEMM, BLOCKWISE, EVEN), CPU)
    assert (calls, bound.config) == ([(EVEN.m, EVEN.n)], {"library": "DeepGEMM 2.5.0"})


def test_a_deepgemm_that_would_convert_scales_in_every_call_is_refused(monkeypatch):
    other = SimpleNamespace(get_mn_major_tma_aligned_tensor=torch.clone)
    monkeypatch.setattr(deepgemm, "_load", lambda: other)
    with pytest.raises(RuntimeError, match="in every call"):
        deepgemm.kernel(DEEPGEMM).prepare(problem_of(DEEPGEMM, BLOCKWISE, EVEN), CPU)


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
def test_deepgemms_limits_are_refused_with_the_value(monkeypatch, sizes, device, scheme, says):
    monkeypatch.setattr(deepgemm, "_load", lambda: LIBRARY)
    m, n, k = sizes
    reason = deepgemm.kernel(DEEPGEMM).supports(problem_of(DEEPGEMM, scheme, GemmShape(m=m, n=n, k=k)), device).reason
    assert says in reason and bool(reason) == bool(says)


EXTENSION = f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
SOURCE = "from . import jit\nfp8_gemm_nt = jit.gemm\nprint('a complaint')\n__version__ = '2.5.0'\n"


def put_deepgemm(package: Path, source: str = SOURCE, *, compiled: bool = True) -> None:
    write(package / "__init__.py", source)
    write(package / "jit.py", "gemm = 'gemm'\n")
    if compiled:
        write(package / EXTENSION)


def test_vllms_copy_of_deepgemm_is_imported_and_vllm_is_not(site, capsys):
    write(site / "vllm" / "__init__.py", "raise RuntimeError('vllm was imported')")
    write(site / "vllm" / vllm.EXTENSIONS[0])
    put_deepgemm(site / "vllm" / "third_party" / "deep_gemm")
    assert deepgemm.probe() == Probe.found("2.5.0 (the copy in vLLM unknown version)")
    assert "deep_gemm" not in sys.modules
    assert deepgemm._load().fp8_gemm_nt == "gemm"
    assert "vllm" not in sys.modules
    assert capsys.readouterr().out == ""


def test_a_package_of_its_own_goes_before_vllms_copy(site):
    write(site / "vllm" / "__init__.py")
    put_deepgemm(site / "vllm" / "third_party" / "deep_gemm")
    put_deepgemm(site / "deep_gemm", SOURCE.replace("2.5.0", "2.8.0"))
    assert deepgemm.probe() == Probe.found("2.8.0")
    assert deepgemm._load().__version__ == "2.8.0"


def test_a_deepgemm_of_another_python_is_told_from_none(site):
    assert deepgemm.probe() == Probe.missing("neither deep_gemm nor a vllm with a copy of it is installed")
    put_deepgemm(site / "deep_gemm", compiled=False)
    found = deepgemm.probe()
    assert found.installed and "without its extension for this Python" in found.reason


def test_an_extension_for_every_python_is_found(site):
    put_deepgemm(site / "deep_gemm", SOURCE.replace("2.5.0", "2.8.1"), compiled=False)
    write(site / "deep_gemm" / "_C.py")
    assert not deepgemm.probe(), "the facade is no extension"
    write(site / "deep_gemm" / "_C_extension.abi3.so")
    assert deepgemm.probe() == Probe.found("2.8.1")
    assert deepgemm._load().fp8_gemm_nt == "gemm"


def test_the_copy_in_todays_vllm_is_told_with_both_versions(site):
    write(site / "vllm" / vllm.EXTENSIONS[0])
    write(site / "vllm" / "_version.py", "__version__ = version = '0.33.0'\n")
    copy = site / "vllm" / "third_party" / "deep_gemm"
    put_deepgemm(copy, SOURCE.replace("2.5.0", "2.8.1"), compiled=False)
    assert "2.8.1 (the copy in vLLM 0.33.0) is installed without" in deepgemm.probe().reason
    write(copy / "_C_extension.abi3.so")
    assert deepgemm.probe() == Probe.found("2.8.1 (the copy in vLLM 0.33.0)")


FORK = (
    "from . import jit\nfp8_gemm_nt = jit.gemm\ndef _read_version():\n    return '?'\n__version__ = _read_version()\n"
)


def test_sglangs_fork_is_told_by_its_version_file(site):
    put_deepgemm(site / "deep_gemm", FORK, compiled=False)
    write(site / "deep_gemm" / "VERSION", "0.2.5\n")
    assert "0.2.5 (SGLang's fork) is installed without its extension" in deepgemm.probe().reason
    write(site / "deep_gemm" / "_C.so")
    assert deepgemm.probe() == Probe.found("0.2.5 (SGLang's fork)")
    assert deepgemm._load().fp8_gemm_nt == "gemm"


def test_a_copy_that_does_not_import_leaves_nothing_behind(site):
    write(site / "vllm" / "__init__.py")
    put_deepgemm(site / "vllm" / "third_party" / "deep_gemm", "from . import jit\nassert None is not None\n")
    with pytest.raises(RuntimeError, match="CUDA_HOME"):
        deepgemm._load()
    assert "deep_gemm" not in sys.modules


def test_it_does_not_quantize_and_says_so(monkeypatch):
    monkeypatch.setattr(deepgemm, "_load", lambda: LIBRARY)
    problem = problem_of(DEEPGEMM, BLOCKWISE, EVEN, Activations.DYNAMIC)
    assert "quantized already" in deepgemm.kernel(DEEPGEMM).supports(problem, GPU).reason
