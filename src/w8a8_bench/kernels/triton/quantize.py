"""Quantization of activations: `quantize` and `apply_static` of `correctness.quantize`, bit for bit, as Triton kernels.

A `plan_*` function checks, allocates what is not given and returns the launches; the function of that name runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from w8a8_bench.correctness.quantize import Quantized, torch_dtype
from w8a8_bench.environment.architecture import DEPENDENT_LAUNCH_SINCE
from w8a8_bench.kernels.triton.device import quantize as device
from w8a8_bench.kernels.triton.launch import Call
from w8a8_bench.kernels.triton.operands import check_tensor, has_dense_rows, require_tensor, row_stride
from w8a8_bench.problem import BLOCK, ActScale, Azp, ceil_div
from w8a8_bench.problem.formats import Format

IN_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

ONE_CAST_SINCE = (9, 0)
"""First compute capability for which Triton casts fp32 to FP8 in one instruction, and so rounds once."""

MANY = 2**21
"""Elements from which there is work for every multiprocessor however x is cut; below, it is cut small."""

FEW_AT_ONCE = 2048
"""Elements of a chunk if x has fewer than `MANY`: 8 a thread."""

TO_QUANTIZE, TO_SEARCH, TO_QUANTIZE_AFTER = 2048, 8192, 4096
"""Elements of a chunk if x has `MANY` or more: to quantize with a given scale, to search for the largest magnitude, and
to quantize with the scale from that, for which each program reads what `MOST_PARTS` programs found."""

LONGEST_ROW = 2**15
"""Elements of a row that a program holds in registers."""

OF_A_THREAD = 64
"""Elements of a row that a thread holds, in 32 registers of the `REGISTERS` that it may have: with fewer threads a
program, more programs are at different points of reading, reducing and writing."""

REGISTERS = 80

MOST_PARTS = 512
"""Programs that look for the largest magnitude of a tensor, and so numbers that each program of the next kernel reads:
2 KiB, next to the 8 KiB that it quantizes."""


def quantize(
    x: torch.Tensor, fmt: Format, activation: ActScale, azp: Azp = Azp.NONE, *, out: Quantized | None = None
) -> Quantized:
    """Quantize x [m,k] (bf16, fp16, fp32; row-major) with scales, and zero points if any, computed from it.

    Zero points (int8) are one a token, and so is their scale. `out` takes q [m,k] row-major, the scale in fp32, [1,1],
    [m,1] or [m, ceil(k/128)] (any strides), and azp int32 [m,1]. Raises ValueError for what does not fit.
    """
    calls, out = plan_quantize(x, fmt, activation, azp, out=out)
    for call in calls:
        call.enqueue_on(x.device)
    return out


def apply_static(
    x: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None, fmt: Format, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Quantize x [m,k] with a given scale, fp32 [1,1], and zero point, int32 [1,1] or None; returns q [m,k]."""
    call, out = plan_apply_static(x, scale, azp, fmt, out=out)
    call.enqueue_on(x.device)
    return out


def plan_apply_static(
    x: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None, fmt: Format, *, out: torch.Tensor | None = None
) -> tuple[Call, torch.Tensor]:
    """The launch of `apply_static`, checked and ready, and the q that it writes."""
    _check_input(x, fmt)
    q = torch.empty(x.shape, dtype=torch_dtype(fmt), device=x.device) if out is None else out
    _check_codes(q, x, fmt)
    check_tensor("scale", scale, torch.float32, (1, 1), x.device)
    if azp is not None:
        if fmt is not Format.INT8:
            raise ValueError(f"a zero point with {fmt.value}: zero points go with int8")
        check_tensor("azp", azp, torch.int32, (1, 1), x.device)
    chunks = _Chunks.of(x, q, TO_QUANTIZE)
    call = Call(
        kernel=device.static,
        grid=(chunks.count,),
        arguments=(x, q, scale, azp, chunks.columns, chunks.stride_x, chunks.stride_q, chunks.in_row),
        constants={**_format(fmt, x.device), "LENGTH": chunks.length, "num_warps": chunks.warps},
    )
    return call, q


def plan_quantize(
    x: torch.Tensor, fmt: Format, activation: ActScale, azp: Azp = Azp.NONE, *, out: Quantized | None = None
) -> tuple[tuple[Call, ...], Quantized]:
    """The launches of `quantize`, checked and ready, in their order, and the tensors that they write."""
    _check_input(x, fmt)
    if azp is not Azp.NONE and (fmt is not Format.INT8 or azp is not Azp.TOKEN or activation is not ActScale.TOKEN):
        raise ValueError(
            f"{fmt.value} with a zero point per {azp.value} and a scale per {activation.value}: "
            "dynamic zero points go with int8, one a token, and a scale per token"
        )
    m, k = x.shape
    sizes = {ActScale.TENSOR: (1, 1), ActScale.TOKEN: (m, 1), ActScale.GROUP: (m, ceil_div(k, BLOCK))}[activation]
    if out is None:
        out = Quantized(
            q=torch.empty(m, k, dtype=torch_dtype(fmt), device=x.device),
            scale=torch.empty(sizes, dtype=torch.float32, device=x.device),
            azp=None if azp is Azp.NONE else torch.empty(m, 1, dtype=torch.int32, device=x.device),
        )
    _check_codes(out.q, x, fmt)
    check_tensor("scale", out.scale, torch.float32, sizes, x.device)
    if (out.azp is None) is not (azp is Azp.NONE):
        raise ValueError(f"azp {'is missing' if out.azp is None else 'is given'} with zero points per {azp.value}")
    if out.azp is not None:
        check_tensor("azp", out.azp, torch.int32, (m, 1), x.device)
    plan = {ActScale.TENSOR: _by_tensor, ActScale.TOKEN: _by_token, ActScale.GROUP: _by_group}[activation]
    return plan(x, out, fmt), out


def _by_tensor(x: torch.Tensor, out: Quantized, fmt: Format) -> tuple[Call, ...]:
    chunks = _Chunks.of(x, out.q, TO_SEARCH)
    parts = torch.empty(min(chunks.count, MOST_PARTS), dtype=torch.float32, device=x.device)
    overlap = _has(x.device, DEPENDENT_LAUNCH_SINCE)
    find = Call(
        kernel=device.largest,
        grid=(parts.numel(),),
        arguments=(x, parts, chunks.columns, chunks.stride_x, chunks.in_row, chunks.count),
        constants={"LENGTH": chunks.length, "OVERLAP": overlap, "num_warps": chunks.warps},
    )
    chunks = _Chunks.of(x, out.q, TO_QUANTIZE_AFTER)
    strides = (chunks.stride_x, chunks.stride_q, chunks.in_row)
    write = Call(
        kernel=device.by_tensor,
        grid=(chunks.count,),
        arguments=(x, out.q, out.scale, parts, chunks.columns, *strides, parts.numel()),
        constants={
            **_format(fmt, x.device),
            "LENGTH": chunks.length,
            "PARTS": _power_of_two(parts.numel()),
            "OVERLAP": overlap,
            "num_warps": chunks.warps,
            "launch_pdl": overlap,
        },
    )
    return find, write


def _by_token(x: torch.Tensor, out: Quantized, fmt: Format) -> tuple[Call, ...]:
    m, k = x.shape
    length = min(_power_of_two(k), LONGEST_ROW)
    rows = max(1, 1024 // length)
    warps = max(4, length // (32 * OF_A_THREAD))
    is_full = length == 32 * warps * OF_A_THREAD
    call = Call(
        kernel=device.by_token,
        grid=(ceil_div(m, rows),),
        arguments=(x, out.q, out.scale, out.azp, m, k, row_stride(x), row_stride(out.q)),
        constants={
            **_format(fmt, x.device),
            "ROWS": rows,
            "LENGTH": length,
            "IN_REGISTERS": k <= length,
            "num_warps": warps,
            "maxnreg": REGISTERS if is_full and x.element_size() < 4 else None,
        },
    )
    return (call,)


def _by_group(x: torch.Tensor, out: Quantized, fmt: Format) -> tuple[Call, ...]:
    m, groups = out.scale.shape
    at_once = 32 if x.numel() >= MANY else 8
    call = Call(
        kernel=device.by_group,
        grid=(ceil_div(m * groups, at_once),),
        arguments=(
            x,
            out.q,
            out.scale,
            x.shape[1],
            row_stride(x),
            row_stride(out.q),
            *out.scale.stride(),
            groups,
            m * groups,
        ),
        constants={**_format(fmt, x.device), "GROUPS": at_once, "num_warps": 4},
    )
    return (call,)


@dataclass(frozen=True)
class _Chunks:
    """x and q cut into `count` chunks of `length` elements, `in_row` to a row; one long row if nothing lies between
    the rows of either. The chunks of a small x are of `FEW_AT_ONCE`. `warps` are those of a program."""

    columns: int
    stride_x: int
    stride_q: int
    length: int
    in_row: int
    count: int
    warps: int

    @classmethod
    def of(cls, x: torch.Tensor, q: torch.Tensor, length: int) -> _Chunks:
        rows, columns = x.shape
        strides = row_stride(x), row_stride(q)
        if strides == (columns, columns):
            rows, columns, strides = 1, x.numel(), (x.numel(), x.numel())
        warps = 4
        if x.numel() < MANY:
            length, warps = FEW_AT_ONCE, 8
        in_row = ceil_div(columns, length)
        return cls(columns, *strides, length, in_row, rows * in_row, warps)


def _check_input(x: torch.Tensor, fmt: Format) -> None:
    if fmt is not Format.INT8 and fmt is not Format.FP8:
        raise ValueError(f"format {fmt!r}: expected Format.INT8 or Format.FP8")
    require_tensor("x", x)
    if x.dtype not in IN_DTYPES or x.dim() != 2 or x.numel() == 0:
        raise ValueError(f"x is {x.dtype} {list(x.shape)}: expected bfloat16, float16 or float32 [m,k]")
    if not has_dense_rows(x):
        raise ValueError(f"x has strides {x.stride()}: expected it row-major")


def _check_codes(q: torch.Tensor, x: torch.Tensor, fmt: Format) -> None:
    check_tensor("q", q, torch_dtype(fmt), tuple(x.shape), x.device)
    if not has_dense_rows(q):
        raise ValueError(f"q has strides {q.stride()}: expected it row-major")


def _format(fmt: Format, device: torch.device) -> dict[str, object]:
    return {
        "INT8": fmt is Format.INT8,
        "ONE_CAST": _has(device, ONE_CAST_SINCE),
        "FUSED": device.type == "cuda",
        # No multiplication and addition but those that the kernels fuse themselves, whatever Triton's default.
        "enable_fp_fusion": False,
    }


def _has(device: torch.device, capability: tuple[int, int]) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= capability


def _power_of_two(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()
