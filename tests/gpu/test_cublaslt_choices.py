"""cuBLASLt's choices on the GPU of this machine: what is restored from disk is taken by the library, and is right."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench import cache  # noqa: E402
from w8a8_bench.correctness.check import check, poison  # noqa: E402
from w8a8_bench.correctness.operand_factory import OperandFactory  # noqa: E402
from w8a8_bench.correctness.oracle import Oracle  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.problem import SCHEMES, GemmShape  # noqa: E402
from w8a8_bench.problem.distribution import Distribution  # noqa: E402
from w8a8_bench.problem.kernel_name import KernelName  # noqa: E402
from w8a8_bench.providers import cublaslt, registry  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]

SHAPE = GemmShape(m=32, n=512, k=1024)
(CUBLASLT,) = (provider for provider in registry.PROVIDERS if provider.name == "cublaslt")


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", CUBLASLT.kernels + CUBLASLT.on_request)
def test_a_restored_algorithm_is_taken_by_the_library_and_its_answer_is_right(name, scheme, monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    device, parsed = detect.resolve_device("cuda"), KernelName.parse(name)
    problem = parsed.problem(SHAPE, parsed.format, scheme)
    kernel = cublaslt.kernel(name)
    if problem.why_illegal() or not kernel.supports(problem, device):
        pytest.skip(f"{name} has no {scheme} on {device.name}")
    configs = []
    for _ in range(2):
        monkeypatch.setattr(cublaslt, "_INT8_FOUND", {})  # as in a new process
        prepared = kernel.prepare(problem, device)
        configs.append(prepared.config)
        operands = OperandFactory(SHAPE, device.torch_name, data=Distribution.OUTLIERS.value, seed=3).make(problem)
        poison(operands.out)
        prepared.bind(operands).total()
        torch.cuda.synchronize()
        assert check(operands, Oracle(), fast_accum=kernel.fast_accum).reason == ""
    assert [config["cached"] for config in configs] == [False, True]
    assert {**configs[0], "cached": True} == configs[1]
