"""SGLang's kernels as far as a CPU can show: found without importing them, layouts as they read them, refusals.

The library is a stand-in that checks what the real one's operators check, and computes from what it is given.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from copies import replace
from made_devices import CPU
from made_peers import EVEN, GPU, PER_TOKEN, blockwise_product, judge, legal, made, problem_of, site, write

from w8a8_bench.correctness.check import check
from w8a8_bench.correctness.library_codes import judge_codes, on_codes
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.correctness.returned_output import take_output
from w8a8_bench.kernel import Probe
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape, Scaling
from w8a8_bench.providers import registry, sglang

__all__ = ["site"]  # a fixture

SGLANG = [
    name
    for provider in registry.PROVIDERS
    if provider.name == "sglang"
    for name in provider.kernels + provider.on_request
]
I8, F8, F8_BLOCK = (
    "sglang_i8_i8_bf16_scaled_mm",
    "sglang_fp8_fp8_bf16_scaled_mm",
    "sglang_fp8_fp8_bf16_scaled_mm_blockwise",
)


def scaled_mm(dtype):
    def multiply(a, b, scale_a, scale_b, out_dtype, bias):
        (m, k), (_, n) = a.shape, b.shape
        assert a.stride(1) == 1 and b.stride(0) == 1 and a.dtype is b.dtype is dtype
        assert k % 16 == 0 and n % 8 == 0 and out_dtype in (torch.float16, torch.bfloat16)
        assert scale_a.numel() == m and scale_b.numel() == n
        for scale in (scale_a, scale_b):
            assert scale.is_contiguous() and scale.dtype is torch.float32
        assert bias is None or (bias.numel() == n and bias.is_contiguous() and bias.dtype is out_dtype)
        d = a.double() @ b.double() * scale_a.view(-1, 1) * scale_b.view(1, -1)
        return (d if bias is None else d + bias).to(out_dtype)

    return SimpleNamespace(default=multiply)


def blockwise_scaled_mm(a, b, scale_a, scale_b, out_dtype):
    (m, k), (_, n) = a.shape, b.shape
    assert a.stride(1) == 1 and b.stride(0) == 1 and k % 16 == 0 and n % 8 == 0
    assert scale_a.shape == (m, k // 128) and scale_b.shape == (k // 128, n // 128)
    for scale in (scale_a, scale_b):
        is_vector = min(scale.shape) == 1 and scale.is_contiguous()
        assert scale.stride() == (1, scale.shape[0]) or is_vector, "m and k are contiguous"
    padded = torch.zeros(-(-m // 4) * 4, n, dtype=out_dtype)
    padded[:m] = blockwise_product(a, b.t(), scale_a, scale_b.t())
    return padded[:m]


def operators() -> SimpleNamespace:
    return SimpleNamespace(
        int8_scaled_mm=scaled_mm(torch.int8),
        fp8_scaled_mm=scaled_mm(torch.float8_e4m3fn),
        fp8_blockwise_scaled_mm=SimpleNamespace(default=blockwise_scaled_mm),
    )


@pytest.mark.parametrize(("name", "scheme"), legal(SGLANG), ids=str)
def test_sglang_gets_its_operands_as_it_reads_them_and_returns_d(name, scheme):
    operands = made(name, scheme)
    launch = sglang.bind(operators(), operands).total
    assert judge(operands, launch, fast_accum=True) == ""
    assert isinstance(launch(), torch.Tensor)


@pytest.mark.parametrize("m", [1, 3])
def test_blocks_are_right_if_the_operator_pads_m(m):
    operands = made(F8_BLOCK, BLOCKWISE, GemmShape(m=m, n=256, k=384))
    assert judge(operands, sglang.bind(operators(), operands).total) == ""


FILES = ("sm90/common_ops.abi3.so", "sm100/common_ops.abi3.so")


def put_sglang(site: Path, *files: str, version: str = "0.4.4") -> None:
    write(site / "sgl_kernel" / "__init__.py", "raise RuntimeError('sgl_kernel was imported')")
    write(site / "sgl_kernel" / "version.py", f'__version__ = "{version}"\n')
    for file in files:
        write(site / "sgl_kernel" / file)


def on_gpu(monkeypatch, capability: tuple[int, int] = (9, 0), has: SimpleNamespace | None = None) -> list[str]:
    """A GPU, and extensions with the operators of `has`; the files that were loaded, from their package on."""
    loaded: list[str] = []
    namespace = SimpleNamespace()

    def load(path: str) -> None:
        loaded.append("/".join(Path(path).parts[-2:]))
        vars(namespace).update(vars(operators() if has is None else has))

    monkeypatch.setattr(torch.ops, "sgl_kernel", namespace, raising=False)
    monkeypatch.setattr(torch.ops, "load_library", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    return loaded


@pytest.mark.parametrize(
    ("files", "capability", "expected"),
    [
        (FILES, (9, 0), "sm90/common_ops.abi3.so"),
        (FILES, (10, 0), "sm100/common_ops.abi3.so"),
        (FILES, (8, 9), "sm100/common_ops.abi3.so"),
        (
            ("sm90/common_ops.cpython-312-x86_64-linux-gnu.so",),
            (9, 0),
            "sm90/common_ops.cpython-312-x86_64-linux-gnu.so",
        ),
        (("common_ops.abi3.so",), (9, 0), "sgl_kernel/common_ops.abi3.so"),
    ],
)
def test_the_extension_for_the_gpu_is_loaded_from_its_file_and_sgl_kernel_is_not_imported(
    monkeypatch, site, files, capability, expected
):
    put_sglang(site, *files)
    loaded = on_gpu(monkeypatch, capability)
    kernel = sglang.kernel(F8)
    assert loaded == [expected]
    assert "sgl_kernel" not in sys.modules
    bound = kernel.prepare(problem_of(F8, PER_TOKEN, EVEN), GPU)
    assert bound.config == {"library": "sgl_kernel 0.4.4"}


def refusal(name: str = F8) -> str:
    """Why the registry's provider refuses a kernel."""
    (provider,) = (one for one in registry.PROVIDERS if one.name == "sglang")
    scheme = BLOCKWISE if name == F8_BLOCK else PER_TOKEN
    return provider.make(name).supports(problem_of(name, scheme, EVEN), GPU).reason


def test_a_package_without_a_file_for_the_gpu_says_which_release_has_one(monkeypatch, site):
    put_sglang(site, FILES[0])
    on_gpu(monkeypatch, (10, 0))
    assert refusal() == (
        "sglang 0.4.4 does not load: ImportError: it has no sm100/common_ops*.so for compute capability 10.0; "
        "for PyTorch 2.11 with CUDA 13: pip install --no-deps sglang-kernel==0.4.4"
    )


@pytest.mark.parametrize(
    ("torch_version", "says"),
    [
        ("2.11.0", "for PyTorch 2.11 with CUDA 13: pip install --no-deps sglang-kernel==0.4.4"),
        ("2.14.1+cu130", "for PyTorch 2.14 with CUDA 13: pip install --no-deps sglang-kernel==0.4.10"),
        ("2.12.0", "releases are built for CUDA 13 with PyTorch 2.11, 2.13, 2.14, and this is 2.12.0"),
        ("2.15.0a0+git1", "releases are built for CUDA 13 with PyTorch 2.11, 2.13, 2.14, and this is 2.15.0a0+git1"),
    ],
)
def test_a_package_for_another_pytorch_says_what_the_linker_says_and_which_release_works(
    monkeypatch, site, torch_version, says
):
    put_sglang(site, *FILES, version="0.4.9")
    on_gpu(monkeypatch)
    monkeypatch.setattr(torch, "__version__", torch_version)

    def load(path):
        raise OSError(f"Could not load this library: {path}") from OSError("undefined symbol: _ZN3c104cuda")

    monkeypatch.setattr(torch.ops, "load_library", load)
    assert refusal() == f"sglang 0.4.9 does not load: OSError: undefined symbol: _ZN3c104cuda; {says}"


def test_an_extension_without_the_kernels_is_a_reason(monkeypatch, site):
    put_sglang(site, *FILES)
    on_gpu(monkeypatch, has=SimpleNamespace(int8_scaled_mm=None))
    assert "its extension has no operator fp8_scaled_mm; for PyTorch 2.11 with" in refusal()


def test_a_release_without_the_blockwise_operator_refuses_that_kernel_alone(monkeypatch, site):
    put_sglang(site, *FILES, version="0.4.10")
    has = operators()
    del has.fp8_blockwise_scaled_mm
    on_gpu(monkeypatch, has=has)
    assert (
        refusal(F8_BLOCK)
        == "Refused: sgl_kernel 0.4.10 has no blockwise kernel; sglang-kernel 0.4.4 is the last that has"
    )
    assert refusal(F8) == ""


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [("sglang_kernel-0.4.4", "0.4.4"), ("sgl_kernel-0.3.21", "0.3.21"), ("other-1.0", "0.4.2")],
)
def test_the_version_is_the_distributions_else_the_packages(site, distribution, expected):
    put_sglang(site, FILES[0], version="0.4.2")
    name, version = distribution.split("-")
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    write(site / f"{distribution}.dist-info" / "METADATA", metadata)
    assert sglang.probe() == Probe.found(expected)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), Probe.missing("sglang-kernel is not installed")),
        (("notes.txt",), Probe.missing("sglang-kernel is not installed")),
        (("__init__.py",), Probe.broken("sgl_kernel is installed without its compiled kernels")),
        ((FILES[0],), Probe.found("unknown version")),
        ((FILES[1],), Probe.found("unknown version")),
        (("common_ops.abi3.so",), Probe.found("unknown version")),
    ],
)
def test_what_of_sglang_is_there_is_told(site, files, expected):
    for file in files:
        write(site / "sgl_kernel" / file)
    found = sglang.probe()
    assert (found.installed, found.version) == (expected.installed, expected.version)
    assert found.reason.startswith(expected.reason) and bool(found.reason) == bool(expected.reason)


def test_without_a_gpu_nothing_is_loaded_and_the_kernel_refuses(monkeypatch, site):
    put_sglang(site, *FILES)
    loaded = on_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "NVIDIA GPU" in sglang.kernel(F8).supports(problem_of(F8, PER_TOKEN, EVEN), CPU).reason
    assert loaded == []


@pytest.mark.parametrize(
    ("name", "sizes", "device", "scheme", "says"),
    [
        (I8, (1, 8, 16), GPU, PER_TENSOR, ""),
        (I8, (1, 12, 16), GPU, PER_TENSOR, "n=12 is not a multiple of 8"),
        (F8, (1, 8, 24), GPU, PER_TOKEN, "k=24 is not a multiple of 16"),
        (F8_BLOCK, (1, 128, 128), GPU, BLOCKWISE, ""),
        (F8_BLOCK, (4, 192, 128), GPU, BLOCKWISE, "n=192 is not a multiple of 128"),
        (F8_BLOCK, (4, 128, 192), GPU, BLOCKWISE, "k=192 is not a multiple of 128"),
        (F8_BLOCK, (4, 128, 128), GPU, PER_TENSOR, "tensor-w-tensor-a needs no kernel named *_blockwise"),
        (F8_BLOCK, (4, 128, 128), replace(GPU, capability=(8, 9)), BLOCKWISE, "no blockwise kernel"),
        (F8_BLOCK, (4, 128, 128), replace(GPU, capability=(10, 0)), BLOCKWISE, ""),
        (F8, (4, 128, 128), GPU, BLOCKWISE, "needs a kernel named *_blockwise"),
        (F8, (4, 128, 128), CPU, PER_TENSOR, "NVIDIA GPU"),
        (F8, (4, 128, 128), replace(GPU, capability=(8, 0)), PER_TENSOR, "8.9 or newer"),
        (F8, (4, 128, 128), replace(GPU, capability=(12, 0)), PER_TENSOR, ""),
        (I8, (4, 128, 128), replace(GPU, capability=(7, 5)), PER_TENSOR, "8.0 or newer"),
        (I8, (4, 128, 128), replace(GPU, capability=(10, 0)), PER_TENSOR, "no int8 kernel for compute capability 10.0"),
    ],
)
def test_sglangs_limits_are_refused_with_the_value(monkeypatch, name, sizes, device, scheme, says):
    monkeypatch.setattr(sglang, "_operators", operators)
    m, n, k = sizes
    reason = sglang.kernel(name).supports(problem_of(name, scheme, GemmShape(m=m, n=n, k=k)), device).reason
    assert says in reason and bool(reason) == bool(says)


def per_token_quant(x, q, scale):
    """By the reciprocal of the scale, as SGLang's kernel does."""
    assert x.is_contiguous() and x.shape[1] % 16 == 0 and q.is_contiguous()
    assert scale.shape == (len(x), 1) and scale.is_contiguous() and scale.dtype is torch.float32
    scale.copy_(x.float().abs().amax(1, keepdim=True).clamp(min=448 / (448.0 * 448 * 512)) / 448)
    q.copy_((x.float() * (1 / scale)).clamp(-448, 448).to(torch.float8_e4m3fn))


def per_group_quant(x, q, scale, size, eps, low, high, ue8m0):
    m, k = x.shape
    assert (size, low, high, ue8m0) == (128, -448.0, 448.0, False)
    assert scale.shape == (m, k // 128) and (min(scale.shape) == 1 or scale.stride() == (1, m)), "m is contiguous"
    groups = x.float().view(m, -1, 128)
    scale.copy_(groups.abs().amax(2).clamp(min=eps) / high)
    q.copy_((groups / scale.unsqueeze(2)).clamp(low, high).view(m, k).to(torch.float8_e4m3fn))


def quantizing() -> SimpleNamespace:
    found = operators()
    found.sgl_per_token_quant_fp8, found.sgl_per_token_group_quant_8bit = per_token_quant, per_group_quant
    return found


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(F8, PER_TOKEN), (F8, Scaling.parse("tensor-w-token-a")), (f"{F8}_bias", PER_TOKEN), (F8_BLOCK, BLOCKWISE)],
    ids=str,
)
def test_sglang_quantizes_in_front_of_its_products_and_declares_its_codes(name, scheme):
    operands = made(name, scheme, activations=Activations.DYNAMIC)
    launches = sglang.bind(quantizing(), operands)
    assert launches.quant is not None and launches.gemm is not None and launches.codes is not None
    take_output([launches.total()], 0, operands.out)
    assert judge_codes(launches.codes, operands).reason == ""
    assert check(on_codes(operands, launches.codes), Oracle(), fast_accum=True).reason == ""


@pytest.mark.parametrize(
    ("name", "scheme", "activations", "says"),
    [
        (F8, PER_TOKEN, Activations.DYNAMIC, ""),
        (F8, PER_TENSOR, Activations.DYNAMIC, "quantize to FP8 only, with scales that they compute for each token"),
        (F8, PER_TENSOR, Activations.STATIC, "quantize to FP8 only, with scales that they compute for each token"),
        (I8, PER_TOKEN, Activations.DYNAMIC, "quantize to FP8 only, with scales that they compute for each token"),
    ],
)
def test_what_its_operators_do_not_quantize_is_refused(monkeypatch, name, scheme, activations, says):
    monkeypatch.setattr(sglang, "_operators", quantizing)
    reason = sglang.kernel(name).supports(problem_of(name, scheme, EVEN, activations), GPU).reason
    assert says in reason and bool(reason) == bool(says)


def test_a_release_without_an_operator_to_quantize_says_so(monkeypatch):
    monkeypatch.setattr(sglang, "_operators", operators)
    problem = problem_of(F8, PER_TOKEN, EVEN, Activations.DYNAMIC)
    assert "has no operator sgl_per_token_quant_fp8" in sglang.kernel(F8).supports(problem, GPU).reason
