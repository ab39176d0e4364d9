"""What each GPU architecture can do, by its compute capability: what its tensor cores multiply, and at what rate."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from w8a8_bench.problem.formats import Format

HOPPER = (9, 0)
"""The only compute capability with warpgroup MMA (PTX `wgmma`, target sm_90a). Later ones have other instructions."""

TMA_SINCE = (9, 0)
"""First compute capability with tensor descriptors and the memory accelerator that reads them."""

DEPENDENT_LAUNCH_SINCE = (9, 0)
"""First compute capability on which a kernel may begin before the kernel that it depends on has ended."""

_BF16, _FP16, _INT8, _FP8 = Format.BF16, Format.FP16, Format.INT8, Format.FP8
_AMPERE = {_BF16: 2048, _FP16: 2048, _INT8: 4096}
_BLACKWELL = {_BF16: 8192, _FP16: 8192, _INT8: 16384, _FP8: 16384}
_GEFORCE_BLACKWELL = {_BF16: 1024, _FP16: 1024, _INT8: 2048, _FP8: 2048}
_OPERATIONS: Mapping[tuple[int, int], Mapping[Format, int]] = {
    (7, 0): {_FP16: 1024},
    (7, 5): {_FP16: 1024, _INT8: 2048},
    (8, 0): _AMPERE,
    (8, 6): {_BF16: 1024, _FP16: 1024, _INT8: 2048},
    (8, 7): _AMPERE,
    (8, 9): {_BF16: 1024, _FP16: 1024, _INT8: 2048, _FP8: 2048},
    (9, 0): {_BF16: 4096, _FP16: 4096, _INT8: 8192, _FP8: 8192},
    (10, 0): _BLACKWELL,
    (10, 1): _BLACKWELL,
    (10, 3): {_BF16: 8192, _FP16: 8192, _FP8: 16384},
    (11, 0): _BLACKWELL,
    (12, 0): _GEFORCE_BLACKWELL,
    (12, 1): _GEFORCE_BLACKWELL,
}


@functools.cache
def tensor_cores_since(format: Format) -> tuple[int, int]:
    """First compute capability whose tensor cores multiply `format`; all later ones do too."""
    return min(capability for capability, rates in _OPERATIONS.items() if format in rates)


def operations_per_clock(capability: tuple[int, int], format: Format) -> int | None:
    """Operations a clock of one multiprocessor's tensor cores: dense, multiply-adds counted as two; None if unknown.

    The rate is that of the widest instruction. A published peak is this x multiprocessors x clock. GeForce GPUs halve
    the rate if they accumulate in fp32; their published peaks are of fp16 accumulation. Sources, with the arithmetic
    that agrees within 2%:

    - 7.0: Volta architecture whitepaper; V100 SXM2, 80 x 1530 MHz, 125 TFLOP/s fp16
    - 7.5: Turing architecture whitepaper and T4 datasheet; T4, 40 x 1590 MHz, 65 TFLOP/s fp16, 130 TOP/s int8
    - 8.0: A100 architecture whitepaper; A100, 108 x 1410 MHz, 312 and 624
    - 8.6: GA102 architecture whitepaper; RTX 3090, 82 x 1695 MHz, 142 and 284
    - 8.7: Jetson AGX Orin technical brief; 16 x 1300 MHz, 170 TOP/s int8 sparse, which is 85 dense: twice 8.6
    - 8.9: Ada architecture whitepaper; RTX 4090, 128 x 2520 MHz, 330.3 and 660.6
    - 9.0: H100 architecture whitepaper; H100 and H200 SXM, 132 x 1830 MHz (the tensor cores' boost), 989.4 and 1979
    - 10.0: Blackwell architecture technical brief; B200, 148 x 1850 MHz, 2250 and 4500
    - 10.3: Blackwell Ultra datasheet; the same but for int8, whose small rate is published too coarsely to use
    - 10.1, called 11.0 since CUDA 13: Jetson AGX Thor datasheet; 20 x 1575 MHz, 517 TFLOP/s fp8
    - 12.0, 12.1: RTX Blackwell architecture whitepaper; RTX 5090, 170 x 2407 MHz, 419 and 838
    """
    return _OPERATIONS.get(capability, {}).get(format)
