"""What is bound, for every problem that has a meaning, judged by the benchmark's own check.

In fp16, which the interpreter rounds to nearest; bf16 it does not.
"""

from __future__ import annotations

import pytest
import torch

from w8a8_bench.correctness.check import check
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.kernels.triton import make_workspace
from w8a8_bench.kernels.triton.configs import ChosenConfig, Gemm, TritonConfig
from w8a8_bench.kernels.triton.prepare import PreparedGemm
from w8a8_bench.problem import SCHEMES, Activations, Azp, GemmShape, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands

SHAPE = GemmShape(m=18, n=36, k=200)
PLAIN = TritonConfig(tile_m=32, tile_n=64, tile_k=128)
SPLIT = TritonConfig(tile_m=16, tile_n=64, tile_k=128, split_k=2, swap=True)


def problems() -> list[Problem]:
    every = [
        Problem.of(
            shape=SHAPE, format=fmt, out=Format.FP16, scaling=scaling, azp=azp, bias=bias, activations=activations
        )
        for fmt in (Format.INT8, Format.FP8)
        for scaling in SCHEMES
        for azp in Azp
        for bias in (False, True)
        for activations in Activations
    ]
    return [problem for problem in every if problem.why_illegal() is None]


def prepare(problem: Problem, config: TritonConfig) -> PreparedGemm:
    gemm = Gemm(
        shape=SHAPE,
        format=problem.format,
        blockwise=problem.scaling.is_blockwise,
        capability=(9, 0),
        sm_count=132,
        aligned=False,
    )
    return PreparedGemm(gemm, ChosenConfig(config, "test"), make_workspace(config, gemm, torch.device("cpu")))


def make(problem: Problem) -> Operands:
    factory = OperandFactory(SHAPE, "cpu", data="normal", seed=11, edge_cases=True)
    return factory.make(problem, guarded=True)


def title(problem: Problem) -> str:
    bias = "-bias" if problem.bias else ""
    return f"{problem.format.value}-{problem.scaling}-{problem.azp.value}{bias}-{problem.activations.value}"


@pytest.mark.parametrize("problem", problems(), ids=title)
def test_every_problem_is_answered_right(problem):
    operands = make(problem)
    prepare(problem, PLAIN).bind(operands).total()
    verdict = check(operands, Oracle())
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
def test_launches_share_a_workspace_and_repeat(fmt):
    problem = next(p for p in problems() if p.format is fmt and p.activations is Activations.DYNAMIC)
    prepared, first, second = prepare(problem, SPLIT), make(problem), make(problem)
    for launches in (prepared.bind(first), prepared.bind(second)):
        launches.total()
        launches.quant()
        launches.gemm()
    for operands in (first, second):
        assert check(operands, Oracle()).ok


def test_dynamic_activations_are_quantized_in_every_launch():
    problem = next(p for p in problems() if p.activations is Activations.DYNAMIC)
    operands = make(problem)
    launches = prepare(problem, PLAIN).bind(operands)
    launches.total()
    operands.a.mul_(2.0)
    launches.total()
    assert check(operands, Oracle()).ok


def test_the_record_says_what_was_chosen():
    config = prepare(problems()[0], SPLIT).config
    assert config["split_k"] == 2
    assert config["swap"] is True
    assert config["chosen"] == "test"
    assert config["accumulation"] == "int32"
    assert prepare(problems()[-1], PLAIN).config["accumulation"] == "promoted every 128 of k"
