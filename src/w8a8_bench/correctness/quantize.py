"""Reference quantization of activations and weights: what every kernel that quantizes must equal bit for bit.

In fp32, with IEEE division and rounding to nearest even; x is the source value, q its code, s the scale:

    fp8           q = cast_e4m3(clamp(x / s, -448, 448))
                  s = max(absmax, tiny) / 448 per tensor, max(absmax / 448, 1 / (448 * 512)) per token or channel,
                      max(absmax, 1e-10) / 448 per group or block
    int8          q = sat(rne(x / s)),        s = absmax / 127, 1 if that is 0
    int8 with azp q = sat(rne(x / s) + azp),  s = (hi - lo) / 255, 1 if that is 0,   azp = rne(-128 - lo / s)
                  with lo = min(x, 0), hi = max(x, 0). Without 0 in the range, the zero point of a near-constant row
                  would be so large that its product with the column sums overflows int32

Division of a CUDA tensor by a Python number is, in PyTorch, a multiplication by the rounded reciprocal. All divisors
here are tensors for that reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from w8a8_bench.problem import BLOCK, ActScale, Azp, Problem, WeightScale
from w8a8_bench.problem.formats import FP8_MAX, Format
from w8a8_bench.problem.memory import QUANTIZE_CHUNK, a_variant, at_once, row_chunks

FP8_TENSOR_FLOOR = 1e-12
"""`tiny`, the least absmax of a tensor (torchao's `EPS`). The least normal fp32 would give a subnormal scale, which a
kernel compiled with flush-to-zero reads as 0, and the quotients of a zero tensor as NaN."""

FP8_TOKEN_FLOOR = 1.0 / (FP8_MAX * 512.0)
"""Least scale per token or channel (vLLM's `dynamic_per_token_scaled_fp8_quant`)."""

FP8_GROUP_FLOOR = 1e-10
"""Least absmax of a group or block (vLLM's and DeepGEMM's group quantization)."""


@dataclass(frozen=True)
class Quantized:
    """Activations q [m,k] with scale, fp32 [1,1], [m,1] or [m, ceil(k/128)], and zero point, int32 [1,1] or [m,1]."""

    q: torch.Tensor
    scale: torch.Tensor
    azp: torch.Tensor | None = None


def torch_dtype(fmt: Format) -> torch.dtype:
    dtype = getattr(torch, fmt.torch_name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def quantize_activations(x: torch.Tensor, problem: Problem) -> Quantized:
    """Quantize x [m,k] (bf16) as `problem` asks; 8-bit operands without scales are quantized per tensor."""
    return quantize(x, *a_variant(problem))


def quantize(x: torch.Tensor, fmt: Format, activation: ActScale, azp: Azp) -> Quantized:
    """Quantize x [m,k] with scales, and zero points if any, computed from it."""
    scale, zero_point = activation_scale(x, fmt, activation, azp)
    return Quantized(apply_static(x, scale, zero_point, fmt), scale, zero_point)


def activation_scale(
    x: torch.Tensor, fmt: Format, activation: ActScale, azp: Azp
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale and zero point of x [m,k], shaped as in `Quantized`.

    A zero point per token with a scale per tensor takes the scale of the whole tensor's range, and each zero point from
    the least value of its row; it cannot leave -128..127, since no row reaches below the tensor.
    """
    if azp is not Azp.NONE:
        return _scale_and_azp(x, activation, azp)
    absmax = _absmax(x, BLOCK if activation is ActScale.GROUP else x.shape[1])
    return _symmetric_scale(absmax, fmt, activation), None


def quantize_weights(w: torch.Tensor, fmt: Format, weight: WeightScale) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize w [n,k] symmetrically: q [n,k], and the scale [1,1], [1,n] or [ceil(k/128), ceil(n/128)] in fp32."""
    scale = weight_scale(w, fmt, weight)
    return apply_static(w, scale, None, fmt), scale.t().contiguous()


def weight_scale(w: torch.Tensor, fmt: Format, weight: WeightScale) -> torch.Tensor:
    """Scale of w [n,k] in its own orientation: fp32 [1,1], [n,1] or [ceil(n/128), ceil(k/128)]."""
    if weight is WeightScale.BLOCK:
        absmax = _absmax(_absmax(w, BLOCK).t(), BLOCK).t()
    else:
        absmax = _absmax(w, w.shape[1])
    return _symmetric_scale(absmax, fmt, _LIKE[weight])


def upcast(q: torch.Tensor, out: torch.Tensor) -> None:
    """Write fp8 codes q [rows,columns] to `out`, fp32 of the same shape, exactly, NaN included.

    An e4m3 code is seeeemmm. Its bits, moved to the place of exponent and significand in fp16, are the value over 256,
    subnormal or not, since the exponents' biases are 7 and 15. PyTorch's own conversion on a CPU takes 2.5
    times as long.
    """
    codes = q.view(torch.int8)
    rows, columns = q.shape
    for part in row_chunks(rows, columns, at_once(QUANTIZE_CHUNK, q.device.type)):
        bits = codes[part].to(torch.int16)  # the sign goes on through the upper byte
        bits.bitwise_left_shift_(7).bitwise_and_(~(1 << 14))
        # NaN is the code of all ones, and adding one to its last bit carries into the top of fp16's exponent.
        bits |= (bits + (1 << 7)).bitwise_and_(1 << 14)
        wide = out[part]
        wide.copy_(bits.view(torch.float16)).mul_(256.0)


def _absmax(x: torch.Tensor, length: int) -> torch.Tensor:
    """Largest magnitude of every `length` elements of a row, the last group being ragged: fp32 [m, ceil(k/length)]."""
    rows, columns = x.shape
    whole = columns // length * length
    chunks = []
    for part in row_chunks(rows, columns, at_once(QUANTIZE_CHUNK, x.device.type)):
        groups = []
        if whole:
            groups.append(x[part, :whole].reshape(part.stop - part.start, -1, length).abs().amax(2))
        if whole < columns:
            groups.append(x[part, whole:].abs().amax(1, keepdim=True))
        chunks.append(torch.cat(groups, dim=1).float())
    return torch.cat(chunks)


def _divide(x: torch.Tensor, divisor: float) -> torch.Tensor:
    """IEEE division on every device (see the head of this module)."""
    return x / torch.full_like(x, divisor)


def _one_where_zero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


_LIKE = {WeightScale.TENSOR: ActScale.TENSOR, WeightScale.CHANNEL: ActScale.TOKEN, WeightScale.BLOCK: ActScale.GROUP}
"""Weights are scaled by the formula for activations of the like granularity."""


def _symmetric_scale(absmax: torch.Tensor, fmt: Format, granularity: ActScale) -> torch.Tensor:
    if granularity is ActScale.TENSOR:
        absmax = absmax.amax().view(1, 1)
    if fmt is Format.INT8:
        return _one_where_zero(_divide(absmax, 127.0))
    if fmt is not Format.FP8:
        raise ValueError(f"format {fmt.value}: expected int8 or fp8")
    if granularity is ActScale.TOKEN:
        return _divide(absmax, FP8_MAX).clamp(min=FP8_TOKEN_FLOOR)
    floor = FP8_TENSOR_FLOOR if granularity is ActScale.TENSOR else FP8_GROUP_FLOOR
    return _divide(absmax.clamp(min=floor), FP8_MAX)


def _scale_and_azp(x: torch.Tensor, activation: ActScale, azp: Azp) -> tuple[torch.Tensor, torch.Tensor]:
    low = x.amin(1, keepdim=True).float().clamp(max=0.0)
    high = x.amax(1, keepdim=True).float().clamp(min=0.0)
    if activation is ActScale.TENSOR:
        scale = _one_where_zero(_divide(high.amax() - low.amin(), 255.0)).view(1, 1)
    else:
        scale = _one_where_zero(_divide(high - low, 255.0))
    if azp is Azp.TENSOR:
        low = low.amin().view(1, 1)
    # The clamp acts if the scale is subnormal, and so too coarse for the quotient to stay within 0..255.
    return scale, (-128.0 - low / scale).round().clamp(-128.0, 127.0).to(torch.int32)


def apply_static(x: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None, fmt: Format) -> torch.Tensor:
    """Quantize x [m,k] with a given scale and zero point, [1,1] or [m,1].

    The scale has one row, one for each row of x, or one for each 128 rows; its columns alike.
    """
    rows, columns = x.shape
    q = torch.empty(x.shape, dtype=torch_dtype(fmt), device=x.device)
    blocked = 1 < scale.shape[0] < rows
    chunk = at_once(QUANTIZE_CHUNK, x.device.type)
    for part in row_chunks(rows, columns, chunk, multiple=BLOCK if blocked else 1):
        quotient = x[part].to(torch.float32, copy=True)
        quotient /= spread(scale, part, rows, columns)
        if fmt is Format.INT8:
            quotient.round_()
            if azp is not None:
                quotient += azp if azp.shape[0] == 1 else azp[part]
            quotient.clamp_(-128.0, 127.0)
        else:
            # Before the cast: past 448, torch's cast saturates on one device and gives NaN on another.
            quotient.clamp_(-FP8_MAX, FP8_MAX)
        q[part] = quotient
    return q


def spread(scale: torch.Tensor, part: slice, rows: int, columns: int) -> torch.Tensor:
    """The scale of every element of the rows in `part` (whole blocks, but for the last), or what broadcasts to it."""
    if scale.shape[0] == rows:
        scale = scale[part]
    elif scale.shape[0] > 1:
        blocks = scale[part.start // BLOCK : -(-part.stop // BLOCK)]
        scale = blocks.repeat_interleave(BLOCK, dim=0)[: part.stop - part.start]
    if scale.shape[1] > 1:
        scale = scale.repeat_interleave(BLOCK, dim=1)[:, :columns]
    return scale
