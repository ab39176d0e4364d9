"""The functions that users call: choose a kernel once for each combination of sizes, then only launch.

What depends on sizes and dtypes is checked and chosen once and remembered. What may differ from call to call (strides,
alignment, devices) the compiled function checks itself; only when it refuses does `_explain` look for the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.kernels.cutlass import compile_cache, configs, heuristic, occupancy
from w8a8_bench.kernels.cutlass.geometry import Geometry, TileConfig
from w8a8_bench.kernels.cutlass.variant import VECTORS, Element, EpilogueVector, Per, Variant
from w8a8_bench.problem import BLOCK, BLOCKWISE, PER_TENSOR, Azp, GemmShape, Problem, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.text import shown

OPERANDS = {torch.int8: Format.INT8, torch.float8_e4m3fn: Format.FP8}
OUTPUTS = {torch.bfloat16: Format.BF16, torch.float16: Format.FP16}


Vectors = tuple[torch.Tensor | None, ...]
"""One for each of `VECTORS`, None if the kernel has it not. Blockwise, scale_a and scale_b are matrices."""


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel chosen and loaded for a problem on a device."""

    config: TileConfig
    launch: Callable[..., None]
    max_clusters: int


_kernels: dict[tuple[Any, ...], LoadedKernel] = {}
"""By what a call is chosen by."""

_launched: set[tuple[int, Variant, TileConfig]] = set()
"""What was launched on a device. The driver loads a kernel when it is first launched, which no graph can capture."""


def scaled_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`out = cast(scale_a * scale_b * (a @ b) + bias)`; fp8 is accumulated fast, as by PyTorch's `use_fast_accum`.

    scale_a fp32 with 1 element or [m,1], scale_b fp32 with 1 element or [1,n], bias [n] in the output's dtype. Raises
    ValueError for an argument that does not fit, TypeError for one that is no tensor, and RuntimeError if this
    machine can't run the kernel.
    """
    return _call(a, b, (scale_a, scale_b, bias, None, None), out_dtype, out)


def scaled_mm_azp(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    azp_adj: torch.Tensor,
    azp: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`out = cast(scale_a * scale_b * (a @ b - azp * azp_adj) + bias)` for int8, the correction in int32.

    azp_adj int32 [n]; azp int32 [m,1], a zero point a token, or None if azp_adj contains the one of the tensor. The
    rest as for `scaled_mm`.
    """
    if azp_adj is None:
        raise TypeError("azp_adj is None: expected a tensor")
    return _call(a, b, (scale_a, scale_b, bias, azp_adj, azp), out_dtype, out)


def blockwise_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """fp8 with a scale for each 1x128 of a and 128x128 of b, promoted to fp32 every 128 of k.

    scale_a fp32 [m, ceil(k/128)], fastest with m contiguous; scale_b fp32 [ceil(k/128), ceil(n/128)]. The last block
    may be short. Raises as `scaled_mm` does.
    """
    return _call(a, b, (scale_a, scale_b, None, None, None), out_dtype, out, blockwise=True)


def warm_up(
    ms: Iterable[int],
    n: int,
    k: int,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    *,
    blockwise: bool = False,
    bias: bool = False,
    azp: str | None = None,
    device: int | None = None,
) -> int:
    """Load all kernels that calls with any of `ms` tokens take, so that a first call of a size can be captured.

    warm_up(range(1, 8193), n, k, torch.float8_e4m3fn, torch.bfloat16) loads a dozen, and each that was never compiled
    takes a second or two. `azp` is None, "tensor" or "token", `device` the index of a GPU, by default the current one.
    Returns how many kernels there are. Raises ValueError for sizes and dtypes that no call could have, and
    RuntimeError if this machine can't run the kernels.
    """
    index = torch.cuda.current_device() if device is None else device
    if dtype not in OPERANDS or out_dtype not in OUTPUTS:
        raise ValueError(f"{dtype} to {out_dtype}: expected int8 or float8_e4m3fn to bfloat16 or float16")
    sizes = [GemmShape(m=m, n=n, k=k) for m in ms]
    problems = [
        Problem.of(
            shape=shape,
            format=OPERANDS[dtype],
            out=OUTPUTS[out_dtype],
            scaling=BLOCKWISE if blockwise else PER_TENSOR,
            azp=Azp.NONE if azp is None else Azp(azp),
            bias=bias,
        )
        for shape in sizes
    ]
    if problems and (reason := problems[0].why_illegal()):
        raise ValueError(reason)
    gpu = occupancy.of_device(index)
    of_tiles = {heuristic.choose(problem, gpu): problem for problem in problems}
    for tile, problem in of_tiles.items():
        kernel = load_kernel(problem, index, tile)
        with torch.cuda.device(index):
            _launch_once(kernel, Variant.of(problem), dtype, out_dtype)
        _launched.add((index, Variant.of(problem), tile))
    return len(of_tiles)


def _launch_once(kernel: LoadedKernel, variant: Variant, dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    """On zeros, of the smallest size that a kernel with this split of k computes."""
    shape = GemmShape(m=1, n=BLOCK, k=kernel.config.split_k * kernel.config.tile_k)

    def zeros(size: tuple[int, ...], of: torch.dtype) -> torch.Tensor:
        return torch.zeros(size, dtype=of, device="cuda")

    vectors = [
        zeros(_size_of(vector, shape, variant.blockwise), _dtype_of(vector, out_dtype))
        if vector.when(variant)
        else None
        for vector in VECTORS
    ]
    a, w = zeros((shape.m, shape.k), dtype), zeros((shape.n, shape.k), dtype)
    kernel.launch(a, w.t(), zeros((shape.m, shape.n), out_dtype), *vectors, kernel.max_clusters)
    torch.cuda.current_stream().synchronize()


def _call(
    a: torch.Tensor,
    b: torch.Tensor,
    vectors: Vectors,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    blockwise: bool = False,
) -> torch.Tensor:
    try:
        return _launch(a, b, vectors if blockwise else _reshaped(*vectors), out_dtype, out, blockwise)
    except AttributeError:
        # Looked for only once something went wrong: a call that is right pays nothing for it.
        names = ("a", "b", *(vector.name for vector in VECTORS), "out")
        for name, value in zip(names, (a, b, *vectors, out), strict=True):
            is_required = name in ("a", "b", "scale_a", "scale_b")
            if not isinstance(value, torch.Tensor) and (is_required or value is not None):
                raise TypeError(f"{name} is {shown(value)}: expected a tensor") from None
        raise


def _reshaped(scale_a: Any, scale_b: Any, bias: Any, azp_adj: Any, azp: Any) -> Vectors:
    """Scales as [m,1] and [1,n], zero points as [n] and [m,1]."""
    if scale_a.dim() != 2:
        scale_a = scale_a.reshape(-1, 1)
    if scale_b.dim() != 2 or (scale_b.shape[0] != 1 and scale_b.shape[1] == 1):
        scale_b = scale_b.reshape(1, -1)
    if azp_adj is not None and azp_adj.dim() != 1:
        azp_adj = azp_adj.reshape(-1)
    if azp is not None and azp.dim() != 2:
        azp = azp.reshape(-1, 1)
    return scale_a, scale_b, bias, azp_adj, azp


def _launch(
    a: torch.Tensor,
    b: torch.Tensor,
    vectors: Vectors,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    blockwise: bool,
) -> torch.Tensor:
    device = a.get_device()
    sizes = [vector is None or vector.shape for vector in vectors]
    key = (blockwise, a.dtype, a.shape, b.shape, out_dtype, device, *sizes)
    kernel = _kernels.get(key)
    if kernel is None:
        problem = _problem(a, b, vectors, out_dtype, blockwise)
        if not a.is_cuda:
            raise ValueError(f"a is on {a.device}: expected a CUDA device")
        if torch.cuda.is_current_stream_capturing():
            tile = heuristic.choose(problem, occupancy.of_device(device))
            if (device, Variant.of(problem), tile) not in _launched:
                raise RuntimeError(
                    "the first call for a size loads its kernel, which no graph can capture: call it or warm_up before"
                )
        kernel = _kernels[key] = load_kernel(problem, device)
        _launched.add((device, Variant.of(problem), kernel.config))
    if out is None:
        out = torch.empty((a.shape[0], b.shape[1]), dtype=out_dtype, device=a.device)
    try:
        if device == torch.cuda.current_device():
            kernel.launch(a, b, out, *vectors, kernel.max_clusters)
        else:
            with torch.cuda.device(a.device):
                kernel.launch(a, b, out, *vectors, kernel.max_clusters)
    except (ValueError, TypeError, RuntimeError):
        _explain(a, b, vectors, out_dtype, out, blockwise)
        raise
    return out


def _problem(a: torch.Tensor, b: torch.Tensor, vectors: Vectors, out_dtype: torch.dtype, blockwise: bool) -> Problem:
    """What the arguments ask for. Raises ValueError if dtypes or sizes do not fit together."""
    _check_operands(a, b, out_dtype)
    (m, k), n = a.shape, b.shape[1]
    _check_vectors(vectors, GemmShape(m=m, n=n, k=k), out_dtype, blockwise)
    if blockwise and a.dtype != torch.float8_e4m3fn:
        raise ValueError(f"a is {a.dtype}: blockwise scales go with float8_e4m3fn")
    given = {vector.name for vector, tensor in zip(VECTORS, vectors, strict=True) if tensor is not None}
    if "azp_adj" in given and a.dtype != torch.int8:
        raise ValueError(f"a is {a.dtype}: zero points go with int8")
    return Problem.of(
        shape=GemmShape(m=m, n=n, k=k),
        format=OPERANDS[a.dtype],
        out=OUTPUTS[out_dtype],
        scaling=BLOCKWISE if blockwise else PER_TENSOR,
        azp=Azp.NONE if "azp_adj" not in given else Azp.TOKEN if "azp" in given else Azp.TENSOR,
        bias="bias" in given,
    )


def object_of(problem: Problem, device_index: int) -> str:
    """The path of the compiled kernel that `load_kernel` loads, whether it is there or not."""
    tile = heuristic.choose(problem, occupancy.of_device(device_index))
    return str(compile_cache.object_path((Variant.of(problem), tile)))


def load_kernel(problem: Problem, device_index: int, tile: TileConfig | None = None) -> LoadedKernel:
    """Choose, unless `tile` is given, compile or load a kernel for a problem on a CUDA device.

    Raises RuntimeError if the device or the installation can't run it, ValueError if the problem or `tile` is illegal.
    """
    capability = torch.cuda.get_device_capability(device_index)
    if capability != HOPPER:
        raise RuntimeError(f"compute capability {capability[0]}.{capability[1]}: these kernels need 9.0 (Hopper)")
    if missing := compile_cache.why_missing():
        raise RuntimeError(missing)
    gpu = occupancy.of_device(device_index)
    tile = tile or heuristic.choose(problem, gpu)
    variant = Variant.of(problem)
    if reason := configs.why_illegal(tile, variant, problem.shape):
        raise ValueError(reason)
    launch = compile_cache.load(variant, tile)
    return LoadedKernel(tile, launch, heuristic.resident_clusters(Geometry(tile, variant), gpu))


def _check_operands(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> None:
    if a.dtype not in OPERANDS or b.dtype != a.dtype:
        raise ValueError(f"a is {a.dtype} and b is {b.dtype}: expected both int8 or both float8_e4m3fn")
    if out_dtype not in OUTPUTS:
        raise ValueError(f"out_dtype {out_dtype}: expected torch.bfloat16 or torch.float16")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)}: expected [m,k] and [k,n], none of them 0")
    for name, size in (("n", b.shape[1]), ("k", b.shape[0])):
        if size % configs.ALIGNMENT:
            raise ValueError(f"{name}={size} is not a multiple of {configs.ALIGNMENT}")


def _check_shape(name: str, tensor: torch.Tensor, dtype: torch.dtype, *shapes: tuple[int, ...]) -> None:
    if tensor.dtype != dtype:
        raise ValueError(f"{name} is {tensor.dtype}: expected {dtype}")
    if tuple(tensor.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} {list(tensor.shape)}: expected {expected}")


def _check_vectors(vectors: Vectors, shape: GemmShape, out_dtype: torch.dtype, blockwise: bool) -> None:
    for vector, tensor in zip(VECTORS, vectors, strict=True):
        sizes = [_size_of(vector, shape, blockwise)]
        if vector.may_be_single and not blockwise:
            sizes.append((1, 1))
        if tensor is not None:
            _check_shape(vector.name, tensor, _dtype_of(vector, out_dtype), *sizes)
        elif vector.may_be_single:
            raise TypeError(f"{vector.name} is None: expected a tensor")


def _size_of(vector: EpilogueVector, shape: GemmShape, blockwise: bool) -> tuple[int, ...]:
    """Of the tensor that a call gives for a vector with an element for each token or feature."""
    if blockwise and vector.may_be_single:
        blocks = ceil_div(shape.k, BLOCK)
        return (shape.m, blocks) if vector.per is Per.TOKEN else (blocks, ceil_div(shape.n, BLOCK))
    if vector.per is Per.TOKEN:
        return shape.m, 1
    return (1, shape.n) if vector.may_be_single else (shape.n,)


def _dtype_of(vector: EpilogueVector, out_dtype: torch.dtype) -> torch.dtype:
    return {Element.FP32: torch.float32, Element.INT32: torch.int32, Element.OUT: out_dtype}[vector.element]


def _explain(
    a: torch.Tensor, b: torch.Tensor, vectors: Vectors, out_dtype: torch.dtype, out: torch.Tensor, blockwise: bool
) -> None:
    """Raise ValueError for what the compiled function refused, if it is a dtype, a layout, an alignment or a device."""
    (m, k), n = a.shape, b.shape[1]
    _check_shape("out", out, out_dtype, (m, n))
    _check_vectors(vectors, GemmShape(m=m, n=n, k=k), out_dtype, blockwise)
    named = {vector.name: tensor for vector, tensor in zip(VECTORS, vectors, strict=True) if tensor is not None}
    for name, tensor in {"b": b, "out": out, **named}.items():
        if tensor.device != a.device:
            raise ValueError(f"{name} is on {tensor.device} and a on {a.device}")
    for name, rows, multiple in (("a", a, 16), ("b transposed", b.t(), 16), ("out", out, 8)):
        if rows.stride(1) != 1 and rows.shape[1] > 1:
            raise ValueError(f"{name} has strides {rows.stride()}: expected rows that are contiguous")
        if rows.stride(0) % multiple and rows.shape[0] > 1:
            raise ValueError(f"{name} has rows {rows.stride(0)} elements apart: expected a multiple of {multiple}")
        if rows.data_ptr() % 16:
            raise ValueError(f"{name} begins at {rows.data_ptr():#x}: expected a multiple of 16 bytes")
    for name, tensor in named.items():
        if tensor.dim() == 1 and (tensor.stride(0) != 1 or tensor.data_ptr() % 4):
            raise ValueError(f"{name} is expected contiguous, on 4 bytes")
