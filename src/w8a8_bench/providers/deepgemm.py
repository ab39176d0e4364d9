"""DeepGEMM's blockwise FP8 GEMM: the package `deep_gemm`, or the copy of it that vLLM carries.

The package may be DeepSeek's own, or SGLang's fork of it, which is installed as sgl-deep-gemm.

    deep_gemm.fp8_gemm_nt((a, scale_a), (w, scale_b), out)

a [m,k] and w [n,k] row-major, scale_a fp32 [m, ceil(k/128)] with m contiguous and columns that start at multiples of 16
bytes, as TMA reads them, scale_b fp32 [ceil(n/128), ceil(k/128)]; out bf16. scale_a in any other layout is converted by
a kernel of its own in every call, so it is converted in `bind`. Kernels are compiled by nvcc when a shape is first
asked for, in `prepare`, and kept in $DG_JIT_CACHE_DIR (`cache.LIBRARIES`), else in ~/.deep_gemm.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import UNKNOWN_VERSION, Launches, PreparedKernel, Probe, Support
from w8a8_bench.problem import BLOCK, Activations, Problem, ceil_div
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import installed, vllm

if TYPE_CHECKING:
    import torch

PACKAGE = "deep_gemm"
EXTENSIONS = ("_C", "_C_extension")
"""Compiled modules: `_C` for one Python, or SGLang's for any. Since 2.8 DeepSeek's is `_C_extension`, for any Python,
with a `_C.py` before it."""

FORK_VERSION = "VERSION"
"""The file that SGLang's fork keeps its version in. No other build has one."""

N_MULTIPLE = 64
TMA_BYTES = 16
"""Strides of what TMA reads are multiples of it."""


@dataclass(frozen=True)
class Installation:
    """Where the package lies, and whose it is if it is not DeepSeek's own."""

    directory: Path
    owner: str = ""

    @property
    def version(self) -> str:
        """Of the source text, since the copy that vLLM carries has no metadata."""
        fork = self.directory / FORK_VERSION
        if fork.is_file():
            return f"{fork.read_text(encoding='utf-8').strip() or UNKNOWN_VERSION} (SGLang's fork)"
        text = installed.version(files=(self.directory / "__init__.py",))
        return f"{text} ({self.owner})" if self.owner else text

    @property
    def is_compiled(self) -> bool:
        """Whether there is an extension for this Python: of its version, or of any."""
        names = [f"{name}{suffix}" for name in EXTENSIONS for suffix in importlib.machinery.EXTENSION_SUFFIXES]
        return any((self.directory / name).is_file() for name in names)


def find() -> Installation | None:
    """The package if it is installed, else vLLM's copy."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        return Installation(Path(spec.origin).parent)
    package = vllm.directory()
    copy = package / "third_party" / PACKAGE if package else None
    if copy is not None and (copy / "__init__.py").is_file():
        return Installation(copy, f"the copy in vLLM {vllm.probe().version}".rstrip())
    return None


def probe() -> Probe:
    found = find()
    if found is None:
        return Probe.missing("neither deep_gemm nor a vllm with a copy of it is installed")
    if not found.is_compiled:
        tag = sys.implementation.cache_tag
        return Probe.broken(f"deep_gemm {found.version} is installed without its extension for this Python ({tag})")
    return Probe.found(found.version)


@functools.cache
def _load() -> Any:
    """The package. Raises ImportError if it is built for another PyTorch, RuntimeError if it finds no nvcc."""
    found = find()
    assert found is not None, "probe says whether there is one"
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it could not import
        try:
            return _import_copy(found.directory) if found.owner else importlib.import_module(PACKAGE)
        except AssertionError as error:
            raise RuntimeError("found no CUDA toolkit, whose nvcc compiles its kernels: set CUDA_HOME") from error


def _import_copy(directory: Path) -> Any:
    """Import vLLM's copy under its own name: by way of vllm.third_party, all of vLLM would be imported before it."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACKAGE]
        raise
    return module


def tma_aligned(scale: torch.Tensor) -> torch.Tensor:
    """A copy of fp32 [rows, columns] with rows contiguous, each column at a multiple of 16 bytes from the last."""
    import torch

    rows, columns = scale.shape
    stride = ceil_div(rows * scale.element_size(), TMA_BYTES) * TMA_BYTES // scale.element_size()
    aligned = torch.empty_strided((rows, columns), (1, stride), dtype=scale.dtype, device=scale.device)
    aligned.copy_(scale)
    return aligned


def bind(library: Any, operands: Operands) -> Launches:
    """The launch of a kernel that was compiled for the shape."""
    scale_a, scale_b = operands.scales()
    a, w = (operands.a, tma_aligned(scale_a)), (operands.b.t(), scale_b.t().contiguous())
    return Launches(partial(library.fp8_gemm_nt, a, w, operands.out))


@dataclass(frozen=True)
class DeepGemmKernel:
    """The one name of this provider."""

    name: str

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = why_unsupported(problem, device)
        return Support.no(reason) if reason else Support.yes()

    @property
    def build_s(self) -> float:
        """nvcc takes that long, on one of 16 cores that all compile."""
        return 10.0

    def build_key(self, problem: Problem, device: Device) -> str:
        """Of the shape: which shapes share a kernel, only the library knows."""
        return str(problem.shape)

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        """Compile, by one call on operands of no meaning."""
        import torch

        library, shape, place = _load(), problem.shape, device.torch_name
        a = torch.zeros(shape.m, shape.k, dtype=torch.float8_e4m3fn, device=place)
        w = torch.zeros(shape.n, shape.k, dtype=torch.float8_e4m3fn, device=place)
        groups = ceil_div(shape.k, BLOCK)
        scale_a = tma_aligned(torch.ones(shape.m, groups, device=place))
        if library.get_mn_major_tma_aligned_tensor(scale_a).data_ptr() != scale_a.data_ptr():
            raise RuntimeError("this version of DeepGEMM would convert scale_a in every call: it wants another layout")
        scale_b = torch.ones(ceil_div(shape.n, BLOCK), groups, device=place)
        out = torch.empty(shape.m, shape.n, dtype=torch.bfloat16, device=place)
        library.fp8_gemm_nt((a, scale_a), (w, scale_b), out)
        return PreparedKernel(partial(bind, library), {"library": f"DeepGEMM {probe().version}"})


def why_unsupported(problem: Problem, device: Device) -> str | None:
    """The limit that `problem` on `device` is past, or None."""
    shape, scaling = problem.shape, problem.scaling
    if scaling is None or not scaling.is_blockwise:
        return f"{scaling or 'a product without scales'} needs a kernel that is not named *_blockwise"
    if problem.activations is not Activations.PREQUANTIZED:
        return "DeepGEMM takes activations that are quantized already"
    if device.capability != HOPPER:
        has = dotted(device.capability)
        return f"DeepGEMM takes fp32 scales on compute capability 9.0, and {device.name} has {has}"
    for size, value, multiple in (("n", shape.n, N_MULTIPLE), ("k", shape.k, BLOCK)):
        if value % multiple:
            return f"{size}={value} is not a multiple of {multiple}, as vLLM makes sure before it calls DeepGEMM"
    return None


def kernel(name: str) -> DeepGemmKernel:
    _load()
    return DeepGemmKernel(name)
