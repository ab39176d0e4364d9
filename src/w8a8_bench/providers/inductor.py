"""What `torch.compile` makes of the same products: Inductor picks between ATen's GEMM and Triton templates.

    D = torch._scaled_mm(a, b, scale_a, scale_b, out_dtype, use_fast_accum)       fp8, per tensor or row-wise
    D = cast(fp32(torch._int_mm(a, b)) * scale_a * scale_b + bias)                int8; the epilogue may join a template

Each kernel is compiled for its shapes alone, in the mode `max-autotune-no-cudagraphs`, whose options are at
https://docs.pytorch.org/docs/stable/generated/torch.compile.html. The compiled function allocates D and returns it.
Generated code is kept in $TORCHINDUCTOR_CACHE_DIR and what Triton compiles in $TRITON_CACHE_DIR (`cache.LIBRARIES`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch

from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.quantize import torch_dtype
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import CompileError, Launches, PreparedKernel, Refused, Support
from w8a8_bench.problem import PER_TENSOR, Activations, Problem
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers.pytorch import PyTorchKernel, int_mm_weight

MODE = "max-autotune-no-cudagraphs"

OPTIONS: dict[str, Any] = {
    "compile_threads": 1,  # more would be processes: a pool for each one that compiles ahead, and one beside the timing
    "fx_graph_cache": False,
    "autotune_local_cache": False,
}
"""Of Inductor, beside those that the mode sets. Both caches would keep choices that were timed while other builds ran
(`build_key`)."""

Product = Callable[..., torch.Tensor]


def scaled_mm(out: torch.dtype, *, fast_accum: bool) -> Product:
    """The FP8 product as a function of (a, b, scale_a, scale_b)."""

    def product(a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=out, use_fast_accum=fast_accum)

    return product


def scaled_int_mm(out: torch.dtype) -> Product:
    """The INT8 product as a function of (a, b, scale_a, scale_b) and of bias, if there is one."""

    def product(
        a: torch.Tensor,
        b: torch.Tensor,
        scale_a: torch.Tensor,
        scale_b: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        scaled = torch._int_mm(a, b).to(torch.float32) * scale_a * scale_b
        return (scaled if bias is None else scaled + bias).to(out)

    return product


def arguments(operands: Operands) -> tuple[torch.Tensor, ...]:
    """The operands as the product of their format takes them."""
    scale_a, scale_b = operands.scales()
    if operands.problem.format is Format.INT8:
        bias = () if operands.bias is None else (operands.bias,)
        return (operands.a, int_mm_weight(operands.b), scale_a, scale_b, *bias)
    m, n = operands.out.shape
    if operands.problem.scaling == PER_TENSOR:
        scale_a, scale_b = scale_a.view(()), scale_b.view(())
    else:
        scale_a, scale_b = scale_a.expand(m, 1).contiguous(), scale_b.expand(1, n).contiguous()
    return operands.a, operands.b, scale_a, scale_b


def compiled(product: Product) -> Product:
    """`product`, to be compiled at its first call. Nothing is compiled here."""
    from torch._inductor import list_mode_options  # here, since it takes a second to import

    # Dynamo counts recompilations by code object and gives up after 8, so each product has a code object of its own.
    assert isinstance(product, FunctionType)
    code, closure = product.__code__.replace(), product.__closure__
    own = FunctionType(code, product.__globals__, product.__name__, product.__defaults__, closure)
    return torch.compile(own, fullgraph=True, dynamic=False, options={**list_mode_options(MODE), **OPTIONS})


def compile_for(product: Product, given: tuple[torch.Tensor, ...]) -> Product:
    """`product` compiled for tensors like `given`, by one call on them.

    Raises CompileError, or Refused if there is no compiler.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler, TritonMissing

    made = compiled(product)
    try:
        made(*given)
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        if isinstance(cause, (InvalidCxxCompiler, TritonMissing)):
            raise Refused(f"Inductor finds no compiler: {cause}") from error
        raise CompileError(f"{type(cause).__name__}: {cause}") from error
    return made


def bind(product: Product, operands: Operands) -> Launches:
    """The launch of a compiled product: it returns D."""
    return Launches(partial(product, *arguments(operands)))


@dataclass(frozen=True)
class InductorKernel:
    """One name of this provider."""

    name: str

    @property
    def fast_accum(self) -> bool:
        """As the name says. Without it the templates add the products of each tile along k in fp32."""
        return PyTorchKernel(self.name).fast_accum

    def supports(self, problem: Problem, device: Device) -> Support:
        """Operators and limits are PyTorch's own."""
        if problem.activations is not Activations.PREQUANTIZED:
            return Support.no("the compiled products take activations that are quantized already")
        if problem.format is Format.FP8 and not device.is_cuda:
            return Support.no("FP8 on a CPU is emulated, which there is nothing to compile of")
        return PyTorchKernel(self.name).supports(problem, device)

    @property
    def build_s(self) -> float:
        """An estimate: some twenty templates, one after another."""
        return 30.0

    def build_key(self, problem: Problem, device: Device) -> str:
        """A product is compiled for its shapes alone.

        A build ahead fills the caches of compiled code. What it chose is not kept, since builds are timed beside each
        other: `prepare` times the compiled candidates again.
        """
        return f"{self.name} {problem.scaling} {problem.shape}"

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        """Compile, by one call on operands of no meaning: the layouts of a factory's are those that `bind` gets."""
        out = torch_dtype(problem.out)
        int8 = problem.format is Format.INT8
        product = scaled_int_mm(out) if int8 else scaled_mm(out, fast_accum=self.fast_accum)
        factory = OperandFactory(problem.shape, device.torch_name, data=Distribution.ZEROS.value, seed=0)
        return PreparedKernel(partial(bind, compile_for(product, arguments(factory.make(problem)))), {"mode": MODE})


kernel = InductorKernel
