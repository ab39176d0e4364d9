"""Scaled 8-bit GEMMs for Hopper (compute capability 9.0): `scaled_mm`, `scaled_mm_azp`, `blockwise_mm`, `warm_up`.

Argument order and layouts are those of vLLM's `cutlass_scaled_mm`. The functions enqueue one kernel on the current
stream and allocate nothing but the output, if none is given, so that they can be captured in a CUDA graph. The first
call for a size compiles or loads a kernel, and can be captured only if `warm_up` did that before. Needs
`nvidia-cutlass-dsl` and `apache-tvm-ffi`, and imports them when first called.

    a        int8 or float8_e4m3fn [m,k], row-major; rows may be strided by a multiple of 16 elements
    b        the same dtype [k,n], column-major: the weight [n,k], transposed
    out      bfloat16 or float16 [m,n], row-major, rows strided by a multiple of 8 elements
    m >= 1; n and k multiples of 16; a, b and out begin on 16 bytes
"""

from __future__ import annotations

from w8a8_bench.kernels.cutlass.api import blockwise_mm, scaled_mm, scaled_mm_azp, warm_up

__all__ = ["blockwise_mm", "scaled_mm", "scaled_mm_azp", "warm_up"]
