"""The functions that users call: choose a kernel once for each combination of sizes, then only launch.

What depends on sizes and dtypes is checked and chosen once and remembered. What may differ from call to call (strides,
alignment, devices) the compiled function checks itself; only when it refuses does `_explain` look for the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.kernels.cutlass import compile_cache, configs, occupancy
from w8a8_bench.kernels.cutlass.geometry import Geometry, TileConfig, Variant
from w8a8_bench.problem import BLOCK, BLOCKWISE, PER_TENSOR, Azp, GemmShape, Problem, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.text import shown

OPERANDS = {torch.int8: Format.INT8, torch.float8_e4m3fn: Format.FP8}
OUTPUTS = {torch.bfloat16: Format.BF16, torch.float16: Format.FP16}


@dataclass(frozen=True)
class Plan:
    """A kernel chosen and loaded for a problem on a device."""

    config: TileConfig
    launch: Callable[..., None]
    max_clusters: int


_plans: dict[tuple[Any, ...], Plan] = {}


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
    ValueError for an argument that does not fit, TypeError for one that is no tensor, and RuntimeError where this
    machine can't run the kernel.
    """
    try:
        return _scaled(a, b, scale_a, scale_b, out_dtype, bias, None, None, out)
    except AttributeError:
        _refuse_what_is_no_tensor(a=a, b=b, scale_a=scale_a, scale_b=scale_b, bias=bias, out=out)
        raise


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

    azp_adj int32 [n]; azp int32 [m,1], a zero point a token, or None where azp_adj contains the one of the tensor. The
    rest as for `scaled_mm`.
    """
    try:
        if azp_adj.dim() != 1:
            azp_adj = azp_adj.reshape(-1)
        if azp is not None and azp.dim() != 2:
            azp = azp.reshape(-1, 1)
        return _scaled(a, b, scale_a, scale_b, out_dtype, bias, azp_adj, azp, out)
    except AttributeError:
        given = {"a": a, "b": b, "scale_a": scale_a, "scale_b": scale_b, "azp_adj": azp_adj}
        _refuse_what_is_no_tensor(**given, azp=azp, bias=bias, out=out)
        raise


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
    try:
        key = (BLOCK, a.dtype, a.shape, b.shape, scale_a.shape, scale_b.shape, out_dtype, a.get_device())
        plan = _plans.get(key)
        if plan is None:
            plan = _make_plan(key, a, b, scale_a, scale_b, out_dtype, None, None, None, blockwise=True)
        return _launch(plan, a, b, scale_a, scale_b, out_dtype, None, None, None, out)
    except AttributeError:
        _refuse_what_is_no_tensor(a=a, b=b, scale_a=scale_a, scale_b=scale_b, out=out)
        raise


def _scaled(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None,
    azp_adj: torch.Tensor | None,
    azp: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if scale_a.dim() != 2:
        scale_a = scale_a.reshape(-1, 1)
    if scale_b.dim() != 2 or (scale_b.shape[0] != 1 and scale_b.shape[1] == 1):
        scale_b = scale_b.reshape(1, -1)
    key = (
        a.dtype,
        a.shape,
        b.shape,
        scale_a.shape,
        scale_b.shape,
        out_dtype,
        bias is None,
        None if azp_adj is None else azp_adj.shape,
        None if azp is None else azp.shape,
        a.get_device(),
    )
    plan = _plans.get(key)
    if plan is None:
        plan = _make_plan(key, a, b, scale_a, scale_b, out_dtype, bias, azp_adj, azp, blockwise=False)
    return _launch(plan, a, b, scale_a, scale_b, out_dtype, bias, azp_adj, azp, out)


def _launch(
    plan: Plan,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None,
    azp_adj: torch.Tensor | None,
    azp: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if out is None:
        out = torch.empty((a.shape[0], b.shape[1]), dtype=out_dtype, device=a.device)
    try:
        if a.get_device() == torch.cuda.current_device():
            plan.launch(a, b, scale_a, scale_b, out, bias, azp_adj, azp, plan.max_clusters)
        else:
            with torch.cuda.device(a.device):
                plan.launch(a, b, scale_a, scale_b, out, bias, azp_adj, azp, plan.max_clusters)
    except (ValueError, TypeError, RuntimeError):
        _explain(a, b, scale_a, scale_b, out_dtype, bias, azp_adj, azp, out)
        raise
    return out


def _make_plan(
    key: tuple[Any, ...],
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None,
    azp_adj: torch.Tensor | None,
    azp: torch.Tensor | None,
    *,
    blockwise: bool,
) -> Plan:
    """Check everything that a key fixes, and choose."""
    problem = _problem(a, b, scale_a, scale_b, out_dtype, bias, azp_adj, azp, blockwise=blockwise)
    if not a.is_cuda:
        raise ValueError(f"a is on {a.device}: expected a CUDA device")
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first call for a size loads its kernel, which no graph can capture: make one before")
    plan = _plans[key] = make_plan(problem, a.get_device())
    return plan


def _problem(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None,
    azp_adj: torch.Tensor | None,
    azp: torch.Tensor | None,
    *,
    blockwise: bool,
) -> Problem:
    """What the arguments ask for. Raises ValueError where dtypes or sizes do not fit together."""
    _check_operands(a, b, out_dtype)
    (m, k), n = a.shape, b.shape[1]
    if blockwise:
        blocks = ceil_div(k, BLOCK)
        _check_shape("scale_a", scale_a, torch.float32, (m, blocks))
        _check_shape("scale_b", scale_b, torch.float32, (blocks, ceil_div(n, BLOCK)))
        if a.dtype != torch.float8_e4m3fn:
            raise ValueError(f"a is {a.dtype}: blockwise scales go with float8_e4m3fn")
    else:
        _check_shape("scale_a", scale_a, torch.float32, (m, 1), (1, 1))
        _check_shape("scale_b", scale_b, torch.float32, (1, n), (1, 1))
    for name, vector, dtype, shape in (
        ("bias", bias, out_dtype, (n,)),
        ("azp_adj", azp_adj, torch.int32, (n,)),
        ("azp", azp, torch.int32, (m, 1)),
    ):
        if vector is not None:
            _check_shape(name, vector, dtype, shape)
    if azp_adj is not None and a.dtype != torch.int8:
        raise ValueError(f"a is {a.dtype}: zero points go with int8")
    return Problem.of(
        shape=GemmShape(m=m, n=n, k=k),
        format=OPERANDS[a.dtype],
        out=OUTPUTS[out_dtype],
        scaling=BLOCKWISE if blockwise else PER_TENSOR,
        azp=Azp.NONE if azp_adj is None else Azp.TENSOR if azp is None else Azp.TOKEN,
        bias=bias is not None,
    )


def make_plan(problem: Problem, device_index: int, tile: TileConfig | None = None) -> Plan:
    """Choose, unless `tile` is given, compile or load a kernel for a problem on a CUDA device.

    Raises RuntimeError where the device or the installation can't run it, ValueError where the problem or `tile` is
    illegal.
    """
    capability = torch.cuda.get_device_capability(device_index)
    if capability != HOPPER:
        raise RuntimeError(f"compute capability {capability[0]}.{capability[1]}: these kernels need 9.0 (Hopper)")
    if missing := compile_cache.why_missing():
        raise RuntimeError(missing)
    gpu = occupancy.of_device(device_index)
    tile = tile or configs.choose(problem, gpu)
    variant = Variant.of(problem)
    if reason := configs.why_illegal(tile, variant, problem.shape):
        raise ValueError(reason)
    return Plan(tile, compile_cache.load(variant, tile), configs.resident_clusters(Geometry(tile, variant), gpu))


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


def _refuse_what_is_no_tensor(**arguments: object) -> None:
    """Raise TypeError for the first argument that is none. Looked for only once something went wrong: a call that is
    right pays nothing for it."""
    for name, value in arguments.items():
        optional = name in ("bias", "azp", "out")
        if not isinstance(value, torch.Tensor) and not (optional and value is None):
            raise TypeError(f"{name} is {shown(value)}: expected a tensor{' or None' if optional else ''}") from None


def _check_shape(name: str, tensor: torch.Tensor, dtype: torch.dtype, *shapes: tuple[int, ...]) -> None:
    if tensor.dtype != dtype:
        raise ValueError(f"{name} is {tensor.dtype}: expected {dtype}")
    if tuple(tensor.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} {list(tensor.shape)}: expected {expected}")


def _explain(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out_dtype: torch.dtype,
    bias: torch.Tensor | None,
    azp_adj: torch.Tensor | None,
    azp: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Raise ValueError for what the compiled function refused, if it is a layout, an alignment or a device."""
    _check_shape("out", out, out_dtype, (a.shape[0], b.shape[1]))
    vectors = {"scale_a": scale_a, "scale_b": scale_b, "bias": bias, "azp_adj": azp_adj, "azp": azp}
    for name, tensor in {"b": b, "out": out, **vectors}.items():
        if tensor is not None and tensor.device != a.device:
            raise ValueError(f"{name} is on {tensor.device} and a on {a.device}")
    for name, rows, multiple in (("a", a, 16), ("b transposed", b.t(), 16), ("out", out, 8)):
        if rows.stride(1) != 1 and rows.shape[1] > 1:
            raise ValueError(f"{name} has strides {rows.stride()}: expected rows that are contiguous")
        if rows.stride(0) % multiple and rows.shape[0] > 1:
            raise ValueError(f"{name} has rows {rows.stride(0)} elements apart: expected a multiple of {multiple}")
        if rows.data_ptr() % 16:
            raise ValueError(f"{name} begins at {rows.data_ptr():#x}: expected a multiple of 16 bytes")
    for name, vector in (("bias", bias), ("azp_adj", azp_adj)):
        if vector is not None and (vector.stride(0) != 1 or vector.data_ptr() % 4):
            raise ValueError(f"{name} is expected contiguous, on 4 bytes")
    if bias is not None:
        _check_shape("bias", bias, out_dtype, (b.shape[1],))
