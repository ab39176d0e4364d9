"""The part of cuBLASLt's C interface that a scaled product needs, by ctypes, from the library that PyTorch has loaded.

By ctypes and not by a package of bindings, so that what is called is the very library behind `torch._scaled_mm`, and
rows of both differ in the algorithm alone. Names and values are those of cublasLt.h (13.1), which keeps them from
version to version. Matrices are column-major there.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Mapping
from ctypes import byref, c_float, c_int, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import ceil_div

if TYPE_CHECKING:
    import torch

CUDA_R_16F, CUDA_R_32F, CUDA_R_8I, CUDA_R_32I, CUDA_R_16BF, CUDA_R_8F_E4M3 = 2, 0, 3, 10, 14, 28
COMPUTE_32F, COMPUTE_32I = 68, 72

TRANSA, EPILOGUE, BIAS_POINTER, A_SCALE_POINTER, B_SCALE_POINTER = 3, 7, 8, 17, 18
FAST_ACCUM, BIAS_DATA_TYPE, A_SCALE_MODE, B_SCALE_MODE = 25, 26, 31, 32
"""cublasLtMatmulDescAttributes_t; `CTYPES` says what each is."""

CTYPES: Mapping[int, type[c_int32 | c_uint32 | c_int8 | c_void_p]] = {
    TRANSA: c_int32,
    EPILOGUE: c_uint32,
    BIAS_POINTER: c_void_p,
    A_SCALE_POINTER: c_void_p,
    B_SCALE_POINTER: c_void_p,
    FAST_ACCUM: c_int8,
    BIAS_DATA_TYPE: c_int32,
    A_SCALE_MODE: c_int32,
    B_SCALE_MODE: c_int32,
}

OP_T = 1
EPILOGUE_BIAS = 4
SCALE_OUTER_VEC_32F, SCALE_VEC128_32F, SCALE_BLK128X128_32F = 3, 4, 5
PREF_MAX_WORKSPACE_BYTES = 1

CONFIG = {"algorithm": 0, "tile": 1, "split_k": 2, "stages": 6, "cluster": 8}
"""cublasLtMatmulAlgoConfigAttributes_t by the name that a record has; `cluster` is of 16 bits, the others of 32."""

SUCCESS, NOT_SUPPORTED = 0, 15
HANDLE_ERRORS = {1: "cuBLASLt could not be initialized: is there a GPU?"}


FINE_SCALES_SINCE_CUDA = (12, 9)

BLOCKWISE_ROWS = 4
"""m must be a multiple of it for blockwise scales."""

BLOCKS_MULTIPLE = 4


def has_fine_scales(device: Device) -> bool:
    """Whether cuBLASLt takes vectors and blocks of scales: it does on Hopper alone, since CUDA 12.9."""
    return device.capability == HOPPER and device.cuda is not None and device.cuda >= FINE_SCALES_SINCE_CUDA


def padded_block_scales(scale_b: torch.Tensor) -> torch.Tensor:
    """A copy of scale_b [ceil(k/128), ceil(n/128)] as the library reads it: a row for every block of n, padded to a
    multiple of 4 blocks of k."""
    groups, columns = scale_b.shape
    padded = scale_b.new_zeros(columns, ceil_div(groups, BLOCKS_MULTIPLE) * BLOCKS_MULTIPLE)
    padded[:, :groups] = scale_b.t()
    return padded


class CublasLtError(RuntimeError):
    """A call that failed, with the status and what the library says that it means."""

    def __init__(self, call: str, status: int, meaning: str) -> None:
        super().__init__(f"{call}: status {status}: {meaning}")
        self.status = status


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: 64 bytes that only the library can read."""

    _fields_ = (("data", c_uint64 * 8),)


class HeuristicResult(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm that the library offers, and the workspace that it needs."""

    _fields_ = (
        ("algo", Algorithm),
        ("workspace_bytes", c_size_t),
        ("state", c_int32),
        ("waves", c_float),
        ("reserved", c_int32 * 4),
    )


class Descriptor:
    """An object of the library's, destroyed with this one."""

    def __init__(self, pointer: int, destroy: Callable[[int], object]) -> None:
        self.pointer = pointer
        weakref.finalize(self, destroy, pointer)


@dataclass(frozen=True)
class Product:
    """D = op(A) @ B: the operation and the layouts of A, B and D, by which the library chooses an algorithm.

    `scale` is the type of alpha and beta.
    """

    operation: Descriptor
    a: Descriptor
    b: Descriptor
    d: Descriptor
    scale: type[c_float | c_int32]


class CublasLt:
    """The library, loaded. Every method raises CublasLtError if the library refuses."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cublasLtGetVersion.restype = c_size_t
        library.cublasLtGetStatusString.restype = ctypes.c_char_p
        library.cublasLtMatmul.argtypes = [*[c_void_p] * 13, c_void_p, c_size_t, c_void_p]

    @property
    def version(self) -> str:
        number = int(self._library.cublasLtGetVersion())
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    @functools.cached_property
    def handle(self) -> int:
        """Made once, and good for the device alone that was current then."""
        handle = c_void_p()
        self._check("cublasLtCreate", self._library.cublasLtCreate(byref(handle)))
        assert handle.value is not None
        return handle.value

    def operation(self, compute: int, scale: int, attributes: Mapping[int, int]) -> Descriptor:
        """A matmul descriptor: compute and scale types, then attributes of `CTYPES`."""
        pointer = c_void_p()
        status = self._library.cublasLtMatmulDescCreate(byref(pointer), c_int(compute), c_int(scale))
        made = self._own("cublasLtMatmulDescCreate", status, pointer, self._library.cublasLtMatmulDescDestroy)
        for attribute, value in attributes.items():
            held = CTYPES[attribute](value)
            status = self._library.cublasLtMatmulDescSetAttribute(
                pointer, c_int(attribute), byref(held), c_size_t(ctypes.sizeof(held))
            )
            self._check(f"cublasLtMatmulDescSetAttribute {attribute}", status)
        return made

    def layout(self, dtype: int, rows: int, columns: int) -> Descriptor:
        """A dense column-major matrix."""
        pointer = c_void_p()
        status = self._library.cublasLtMatrixLayoutCreate(
            byref(pointer), c_int(dtype), c_uint64(rows), c_uint64(columns), c_int64(rows)
        )
        return self._own("cublasLtMatrixLayoutCreate", status, pointer, self._library.cublasLtMatrixLayoutDestroy)

    def algorithms(self, product: Product, *, workspace_bytes: int, count: int) -> list[HeuristicResult]:
        """At most `count` algorithms for `product`, the heuristic's first choice first; none if there is none."""
        pointer = c_void_p()
        status = self._library.cublasLtMatmulPreferenceCreate(byref(pointer))
        destroy = self._library.cublasLtMatmulPreferenceDestroy
        preference = self._own("cublasLtMatmulPreferenceCreate", status, pointer, destroy)
        limit = c_uint64(workspace_bytes)
        status = self._library.cublasLtMatmulPreferenceSetAttribute(
            pointer, c_int(PREF_MAX_WORKSPACE_BYTES), byref(limit), c_size_t(ctypes.sizeof(limit))
        )
        self._check("cublasLtMatmulPreferenceSetAttribute", status)
        results, found = (HeuristicResult * count)(), c_int()
        a, b, d = (c_void_p(layout.pointer) for layout in (product.a, product.b, product.d))
        status = self._library.cublasLtMatmulAlgoGetHeuristic(
            c_void_p(self.handle), c_void_p(product.operation.pointer), a, b, d, d, c_void_p(preference.pointer),
            c_int(count), results, byref(found),
        )  # fmt: skip
        if status == NOT_SUPPORTED:
            return []
        self._check("cublasLtMatmulAlgoGetHeuristic", status)
        return [result for result in results[: found.value] if result.state == SUCCESS]

    def restored(self, product: Product, data: bytes, *, workspace_bytes: int) -> HeuristicResult | None:
        """The algorithm whose bytes these are, which must come from the same version of the library.

        None if they are not an algorithm's, or the library can't run it for `product` in this workspace.
        """
        if len(data) != ctypes.sizeof(Algorithm):
            return None
        algorithm, result = Algorithm.from_buffer_copy(data), HeuristicResult()
        a, b, d = (c_void_p(layout.pointer) for layout in (product.a, product.b, product.d))
        status = self._library.cublasLtMatmulAlgoCheck(
            c_void_p(self.handle), c_void_p(product.operation.pointer), a, b, d, d, byref(algorithm), byref(result)
        )
        if status != SUCCESS or result.state != SUCCESS or result.workspace_bytes > workspace_bytes:
            return None
        return HeuristicResult(algorithm, result.workspace_bytes)

    def config(self, offer: HeuristicResult) -> dict[str, int]:
        """What the algorithm is made of, in the library's own numbers (cublasLtMatmulTile_t, ...)."""
        found = {}
        for name, attribute in CONFIG.items():
            value: ctypes.c_uint16 | c_uint32 = ctypes.c_uint16() if name == "cluster" else c_uint32()
            status = self._library.cublasLtMatmulAlgoConfigGetAttribute(
                byref(offer.algo), c_int(attribute), byref(value), c_size_t(ctypes.sizeof(value)), None
            )
            if status == SUCCESS:
                found[name] = value.value
        return found

    def launch(
        self, product: Product, offer: HeuristicResult, pointers: tuple[int, int, int], workspace: tuple[int, int]
    ) -> Callable[[int], None]:
        """What enqueues D = op(A) @ B on a stream: `pointers` of A, B and D, address and size of the workspace."""
        one, zero = product.scale(1), product.scale(0)
        a, b, d = pointers
        algorithm = offer.algo
        function = self._library.cublasLtMatmul
        arguments = (
            self.handle, product.operation.pointer, ctypes.addressof(one), a, product.a.pointer, b, product.b.pointer,
            ctypes.addressof(zero), d, product.d.pointer, d, product.d.pointer, ctypes.addressof(algorithm), *workspace,
        )  # fmt: skip
        held = (product, one, zero, algorithm)  # what the addresses are of

        def enqueue(stream: int) -> None:
            status = function(*arguments, stream)
            if status:
                self._check("cublasLtMatmul", status)

        enqueue.held = held  # type: ignore[attr-defined]
        return enqueue

    def _own(self, call: str, status: int, pointer: c_void_p, destroy: Callable[[c_void_p], object]) -> Descriptor:
        self._check(call, status)
        assert pointer.value is not None
        return Descriptor(pointer.value, lambda address: destroy(c_void_p(address)))

    def _check(self, call: str, status: int) -> None:
        if status != SUCCESS:
            meaning = HANDLE_ERRORS.get(status) or self._library.cublasLtGetStatusString(c_int(status)).decode()
            raise CublasLtError(call, status, meaning)


@functools.cache
def load(cuda_major: int, device_index: int) -> CublasLt:
    """The library of this CUDA for one device, by the name under which PyTorch loaded it.

    Raises OSError if there is none.
    """
    return CublasLt(ctypes.CDLL(f"libcublasLt.so.{cuda_major}"))
