"""From a problem on a device to launches on its operands: configuration, workspace, quantization, product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from w8a8_bench.cache import digest
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch, Launches
from w8a8_bench.kernels.triton.blockwise_mm import plan_blockwise_mm
from w8a8_bench.kernels.triton.configs import ALIGNMENT_BYTES, FP8_ACCUMULATION, ChosenConfig, Gemm, choose, sources
from w8a8_bench.kernels.triton.operands import Workspace, make_workspace
from w8a8_bench.kernels.triton.quantize import plan_apply_static, plan_quantize
from w8a8_bench.kernels.triton.scaled_mm import plan_scaled_mm
from w8a8_bench.problem import BLOCK, Activations, Azp, Problem, ceil_div
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.memory import a_variant
from w8a8_bench.problem.operands import Operands


@dataclass(frozen=True)
class PreparedGemm:
    """A product with its configuration and the workspace that its launches share, one after another."""

    gemm: Gemm
    choice: ChosenConfig
    workspace: Workspace | None

    @property
    def config(self) -> Mapping[str, object]:
        accumulation = "int32"
        if self.gemm.format is Format.FP8:
            accumulation = "promoted every 128 of k" if self.gemm.blockwise else FP8_ACCUMULATION
        return {**self.choice.config.to_json(), "chosen": self.choice.source, "accumulation": accumulation}

    def bind(self, operands: Operands) -> Launches:
        activations = operands.problem.activations
        if activations is Activations.PREQUANTIZED:
            return Launches(self._bind_gemm(operands))
        x, fmt = operands.a, operands.problem.format
        if activations is Activations.STATIC:
            if operands.scale_a is None:
                raise ValueError("static quantization needs scale_a")
            quantize, q = plan_apply_static(x, operands.scale_a, operands.azp, fmt)
            quant: Launch = quantize
            quantized = replace(operands, a=q)
        else:
            steps, made = plan_quantize(x, *a_variant(operands.problem))

            def quant() -> None:
                for step in steps:
                    step()

            quantized = replace(operands, a=made.q, scale_a=made.scale, azp=made.azp)
        gemm = self._bind_gemm(quantized)

        def total() -> None:
            quant()
            gemm()

        return Launches(total, quant=quant, gemm=gemm)

    def _bind_gemm(self, operands: Operands) -> Launch:
        a, b, out, scale_a, scale_b = operands.a, operands.b, operands.out, operands.scale_a, operands.scale_b
        if scale_a is None or scale_b is None:
            raise ValueError("this kernel needs both scales")
        config, workspace = self.choice.config, self.workspace
        if self.gemm.blockwise:
            call, _ = plan_blockwise_mm(a, b, scale_a, scale_b, out.dtype, out=out, config=config, workspace=workspace)
            return call
        call, _ = plan_scaled_mm(
            a,
            b,
            scale_a,
            scale_b,
            out.dtype,
            operands.bias,
            operands.azp_adj,
            operands.azp if operands.problem.azp is Azp.TOKEN else None,
            out=out,
            config=config,
            workspace=workspace,
        )
        return call


def prepare(problem: Problem, device: Device) -> PreparedGemm:
    """With the configuration that was tuned for this GPU and shape, else the best by estimate."""
    gemm = gemm_of(problem, device)
    return prepare_as(choose(gemm, device.name), gemm, device)


def build_key(problem: Problem, device: Device) -> str:
    """What Triton compiles for a problem. It tells sizes of 1 and multiples of 16 from others, in sizes and strides."""
    gemm = gemm_of(problem, device)
    config = choose(gemm, device.name).config
    m, n, k = (problem.shape.m, problem.shape.n, problem.shape.k)
    told = [(size == 1, size % 16 == 0) for size in (m, n, k, ceil_div(k, BLOCK), ceil_div(n, BLOCK))]
    facts = (config, told, k % config.tile_k == 0, problem.format, problem.out, problem.scaling, problem.azp)
    rows = problem.shape if problem.activations is not Activations.PREQUANTIZED else ""
    return digest(sources(), *facts, problem.bias, problem.activations, rows)


def prepare_as(choice: ChosenConfig, gemm: Gemm, device: Device) -> PreparedGemm:
    """With a configuration that is chosen already."""
    return PreparedGemm(gemm, choice, make_workspace(choice.config, gemm, torch.device(device.torch_name)))


def gemm_of(problem: Problem, device: Device) -> Gemm:
    assert device.capability is not None and device.sm_count is not None, "`supports` refuses what is no GPU"
    assert problem.scaling is not None
    return Gemm(
        shape=problem.shape,
        format=problem.format,
        blockwise=problem.scaling.is_blockwise,
        capability=device.capability,
        sm_count=device.sm_count,
        aligned=problem.shape.k % ALIGNMENT_BYTES == 0,
    )
