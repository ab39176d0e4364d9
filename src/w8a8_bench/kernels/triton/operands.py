"""What the GEMMs are given: checked, and as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.kernels.triton.configs import ALIGNMENT_BYTES, Gemm, TritonConfig, choose, legal, why_unsupported
from w8a8_bench.problem import GemmShape, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.text import shown

FORMATS = {torch.int8: Format.INT8, torch.float8_e4m3fn: Format.FP8}
OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

HOPPER_SMS = 132
"""Hopper's number of SMs. Assumed without a GPU: under Triton's interpreter, and when a kernel is only compiled."""


@dataclass(frozen=True)
class Workspace:
    """What the programs that share a tile write their parts to, and count their arrivals in. Launches that use one
    workspace must not overlap."""

    partials: torch.Tensor
    arrivals: torch.Tensor


def make_workspace(config: TritonConfig, gemm: Gemm, device: torch.device) -> Workspace | None:
    """Workspace for `config`, or None if k is not split. Every launch leaves it as it found it."""
    if config.split_k == 1:
        return None
    tiles, elements = _workspace_sizes(config, gemm)
    dtype = torch.int32 if gemm.format is Format.INT8 else torch.float32
    return Workspace(
        partials=torch.empty(elements, dtype=dtype, device=device),
        arrivals=torch.zeros(tiles, dtype=torch.int32, device=device),
    )


def _workspace_sizes(config: TritonConfig, gemm: Gemm) -> tuple[int, int]:
    """Tiles, and elements of all parts of all of them."""
    tiles = ceil_div(gemm.shape.m, config.tile_m) * ceil_div(gemm.shape.n, config.tile_n)
    return tiles, tiles * config.split_k * config.tile_m * config.tile_n


@dataclass(frozen=True)
class Sides:
    """A [m,k], the weight [n,k] and D [m,n] with rows a stride apart, and how they are to be multiplied."""

    gemm: Gemm
    config: TritonConfig
    a: torch.Tensor
    weight: torch.Tensor
    out: torch.Tensor
    workspace: Workspace | None

    def matrices(self) -> tuple[object, object, object]:
        """A, weight and D as the kernels take them."""
        config = self.config
        if not config.descriptors:
            return self.a, self.weight, self.out
        tile_k = config.tile_k
        a = _described(self.a, config.tile_m, tile_k)
        weight = _described(self.weight, config.tile_n, tile_k)
        out = _described(self.out, config.tile_m, config.tile_n) if self.describes_out else self.out
        return a, weight, out

    @property
    def describes_out(self) -> bool:
        return self.config.descriptors and not self.config.swap and is_aligned(self.out)

    @property
    def strides(self) -> tuple[int, int, int]:
        return row_stride(self.a), row_stride(self.weight), row_stride(self.out)

    @property
    def buffers(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return (None, None) if self.workspace is None else (self.workspace.partials, self.workspace.arrivals)

    @property
    def grid(self) -> tuple[int]:
        tiles, _ = _workspace_sizes(self.config, self.gemm)
        return (min(tiles, self.gemm.sm_count) if self.config.persistent else tiles * self.config.split_k,)

    @property
    def constants(self) -> dict[str, object]:
        """Compile-time parameters that both kernels have."""
        config = self.config
        return {
            "TILE_M": config.tile_m,
            "TILE_N": config.tile_n,
            "GROUP": config.group,
            "SPLIT_K": config.split_k,
            "SWAP": config.swap,
            "PERSISTENT": config.persistent,
            "DESCRIPTORS": config.descriptors,
            "DESCRIBED_OUT": self.describes_out,
            "EVEN_K": self.gemm.shape.k % config.tile_k == 0,
            "num_warps": config.warps,
            "num_stages": config.stages,
            "enable_fp_fusion": True,
        }


def take_sides(
    a: torch.Tensor,
    b: torch.Tensor,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    config: TritonConfig | None,
    workspace: Workspace | None,
    *,
    blockwise: bool,
) -> Sides:
    """Check the matrices, and fill in what was not given. Raises ValueError with the value and the reason."""
    require_tensor("a", a)
    require_tensor("b", b)
    if a.dtype not in FORMATS or a.dtype is not b.dtype:
        raise ValueError(f"a is {a.dtype} and b {b.dtype}: expected both int8 or both float8_e4m3fn")
    if blockwise and a.dtype is not torch.float8_e4m3fn:
        raise ValueError(f"a is {a.dtype}: blockwise products are of float8_e4m3fn")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"a is {_sizes(a)} and b {_sizes(b)}: expected [m,k] and [k,n]")
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"out_dtype {out_dtype}: expected bfloat16, float16 or float32")
    weight = b.t()
    shape = GemmShape(m=a.shape[0], n=weight.shape[0], k=a.shape[1])
    for name, matrix, wanted in (("a", a, "row-major"), ("b", weight, "column-major")):
        if not has_dense_rows(matrix):
            raise ValueError(f"{name} has strides {matrix.stride()}: expected it {wanted}")
    if out is None:
        out = torch.empty(shape.m, shape.n, dtype=out_dtype, device=a.device)
    check_tensor("out", out, out_dtype, (shape.m, shape.n), a.device)
    if not has_dense_rows(out):
        raise ValueError(f"out has strides {out.stride()}: expected it row-major")
    check_tensor("b", b, a.dtype, (shape.k, shape.n), a.device)
    gemm = describe(a, weight, shape, blockwise=blockwise)
    if reason := why_unsupported(gemm.format, gemm.capability):
        raise ValueError(reason)
    if config is None:
        config = choose(gemm, _gpu_name(a.device)).config
    elif not (support := legal(config, gemm)):
        raise ValueError(support.reason)
    if config.split_k > 1:
        workspace = workspace or make_workspace(config, gemm, a.device)
        assert workspace is not None
        tiles, elements = _workspace_sizes(config, gemm)
        if workspace.arrivals.numel() < tiles or workspace.partials.numel() < elements:
            raise ValueError(f"a workspace of {workspace.partials.numel()} elements: {config} needs {elements}")
    return Sides(gemm, config, a, weight, out, workspace)


def describe(a: torch.Tensor, weight: torch.Tensor, shape: GemmShape, *, blockwise: bool) -> Gemm:
    """What a configuration is chosen for, from the tensors and their GPU."""
    capability, sm_count = HOPPER, HOPPER_SMS
    if a.is_cuda:
        properties = torch.cuda.get_device_properties(a.device)
        capability, sm_count = (properties.major, properties.minor), properties.multi_processor_count
    return Gemm(
        shape=shape,
        format=FORMATS[a.dtype],
        blockwise=blockwise,
        capability=capability,
        sm_count=sm_count,
        aligned=is_aligned(a) and is_aligned(weight),
    )


def require_tensor(name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {shown(value)}: expected a tensor")


def check_tensor(
    name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    require_tensor(name, tensor)
    if tensor.dtype is not dtype or tuple(tensor.shape) != shape or tensor.device != device:
        got = f"{tensor.dtype} {_sizes(tensor)} on {tensor.device}"
        raise ValueError(f"{name} is {got}: expected {dtype} {list(shape)} on {device}")


def check_vector(
    name: str, tensor: torch.Tensor, dtype: torch.dtype, lengths: tuple[int, ...], device: torch.device
) -> None:
    """One number for each row or column, however many dimensions say so."""
    require_tensor(name, tensor)
    if tensor.dtype is not dtype or tensor.numel() not in lengths or tensor.device != device:
        wanted = " or ".join(str(length) for length in dict.fromkeys(lengths))
        got = f"{tensor.dtype} {_sizes(tensor)} on {tensor.device}"
        raise ValueError(f"{name} is {got}: expected {dtype}, {wanted} elements, on {device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: expected it contiguous")


def is_aligned(matrix: torch.Tensor) -> bool:
    """Whether a tensor descriptor takes it."""
    row_bytes = row_stride(matrix) * matrix.element_size()
    return row_bytes % ALIGNMENT_BYTES == 0 and matrix.data_ptr() % ALIGNMENT_BYTES == 0


def has_dense_rows(matrix: torch.Tensor) -> bool:
    rows, columns = matrix.shape
    return (columns == 1 or matrix.stride(1) == 1) and (rows == 1 or matrix.stride(0) >= columns)


def row_stride(matrix: torch.Tensor) -> int:
    """Elements from row to row; of a single row, whose stride says nothing, its length."""
    return matrix.stride(0) if matrix.shape[0] > 1 else matrix.shape[1]


def _described(matrix: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor(matrix, list(matrix.shape), [row_stride(matrix), 1], [rows, columns])


def _sizes(tensor: torch.Tensor) -> list[int]:
    return list(tensor.shape)


def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
