"""vLLM's kernels as far as a CPU can show: found without importing vLLM, layouts as they read them, refusals.

The library is a stand-in that insists on what the real one documents, and computes from what it is given.
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

from w8a8_bench.correctness.check import check, poison
from w8a8_bench.correctness.library_codes import judge_codes, on_codes
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.kernel import Probe
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape
from w8a8_bench.providers import vllm

__all__ = ["site"]  # a fixture


def scaled_mm(out, a, b, scale_a, scale_b, bias):
    assert a.stride(1) == 1 and out.stride(1) == 1 and b.stride(0) == 1
    assert out.stride(0) % 16 == 0 and b.stride(1) % 16 == 0
    m, n = out.shape
    if scale_a.numel() in (1, m) and scale_b.numel() in (1, n):
        assert scale_a.is_contiguous() and scale_b.is_contiguous()
        d = a.double() @ b.double() * scale_a.view(-1, 1) * scale_b.view(1, -1)
        out.copy_(d if bias is None else d + bias)
        return
    assert bias is None and m % 4 == 0
    assert scale_a.stride() == (1, m) and scale_b.stride() == (1, scale_b.shape[0])
    out.copy_(blockwise_product(a, b.t(), scale_a, scale_b.t()))


def scaled_mm_azp(out, a, b, scale_a, scale_b, azp_adj, azp, bias):
    assert scale_a.is_contiguous() and scale_b.is_contiguous() and azp_adj.dtype is torch.int32
    assert azp is None or (azp.dtype is torch.int32 and azp.numel() == a.shape[0] and azp.is_contiguous())
    acc = a.double() @ b.double() - (azp_adj if azp is None else azp.view(-1, 1).double() * azp_adj)
    d = acc * scale_a.view(-1, 1) * scale_b.view(1, -1)
    out.copy_(d if bias is None else d + bias)


VLLM = [
    *(f"vllm_i8_i8_bf16_scaled_mm{suffix}" for suffix in ("", "_bias", "_azp", "_azp_bias", "_azp_pt", "_azp_pt_bias")),
    *(f"vllm_fp8_fp8_{out}_scaled_mm{suffix}" for out in ("bf16", "fp16") for suffix in ("", "_bias", "_blockwise")),
]


def register(monkeypatch, site: Path, owner: str = vllm.EXTENSIONS[0], schema: str = "cutlass_scaled_mm") -> list[str]:
    """A vllm whose file `owner` registers the operators when it is loaded; the names of the files that were loaded."""
    write(site / "vllm" / "__init__.py", "raise RuntimeError('vllm was imported')")
    for name in vllm.EXTENSIONS:
        write(site / "vllm" / name)
    loaded: list[str] = []

    def load(path: str) -> None:
        loaded.append(Path(path).name)
        if Path(path).name == owner:
            vars(namespace).update(vars(operators(schema)))

    namespace = SimpleNamespace()
    monkeypatch.setattr(torch.ops, "_C", namespace, raising=False)
    monkeypatch.setattr(torch.ops, "load_library", load)
    return loaded


def operators(schema: str = "cutlass_scaled_mm") -> SimpleNamespace:
    return SimpleNamespace(
        **{
            schema: scaled_mm,
            "cutlass_scaled_mm_azp": scaled_mm_azp,
            "cutlass_scaled_mm_supports_fp8": lambda capability: capability >= 89,
            "cutlass_scaled_mm_supports_block_fp8": lambda capability: capability == 90,
        }
    )


@pytest.mark.parametrize(("name", "scheme"), legal(VLLM), ids=str)
def test_vllm_gets_its_operands_as_it_reads_them(name, scheme):
    operands = made(name, scheme)
    launches = vllm.bind(operators(), operands)
    assert judge(operands, launches.total, fast_accum=True) == ""


@pytest.mark.parametrize("owner", vllm.EXTENSIONS)
def test_vllms_extension_is_loaded_from_its_file_and_vllm_is_not_imported(monkeypatch, site, owner):
    loaded = register(monkeypatch, site, owner)
    assert vllm.probe() == Probe.found("unknown version")
    kernel = vllm.kernel(VLLM[0])
    assert loaded == list(vllm.EXTENSIONS[: vllm.EXTENSIONS.index(owner) + 1])
    assert "vllm" not in sys.modules
    assert kernel.supports(problem_of(VLLM[0], PER_TENSOR, EVEN), GPU)


def test_what_the_linker_says_is_the_reason(monkeypatch, site):
    register(monkeypatch, site)

    def load(path):
        raise OSError(f"Could not load this library: {path}") from OSError("libcudart.so.11: cannot open")

    monkeypatch.setattr(torch.ops, "load_library", load)
    with pytest.raises(OSError, match=r"libcudart\.so\.11: cannot open; vLLM 0\.23 is built for PyTorch 2\.11"):
        vllm.kernel(VLLM[0])


def test_vllms_version_is_its_distributions(site):
    write(site / "vllm" / "__init__.py")
    write(site / "vllm" / vllm.EXTENSIONS[0])
    write(site / "vllm-0.23.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 0.23.0\n")
    assert vllm.probe() == Probe.found("0.23.0")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("_version.py", "version: str\n__version__: str\n\n__version__ = version = '0.33.0'\n"),
        ("version.py", '__version__ = "0.33.0"\n'),
    ],
)
def test_without_a_distribution_vllms_version_is_its_files(site, file, text):
    write(site / "vllm" / "version.py", 'try:\n    from ._version import a\nexcept:\n    __version__ = "dev"\n')
    write(site / "vllm" / file, text)
    write(site / "vllm" / vllm.EXTENSIONS[0])
    assert vllm.probe() == Probe.found("0.33.0")


def test_an_extension_without_the_kernels_is_an_error_that_says_so(monkeypatch, site):
    register(monkeypatch, site, schema="cutlass_scaled_fp4_mm")
    with pytest.raises(AttributeError, match="no operator cutlass_scaled_mm"):
        vllm.kernel(VLLM[0])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), Probe.missing("vllm is not installed")),
        (("notes.txt",), Probe.missing("vllm is not installed")),
        (("__init__.py",), Probe.broken("vllm is installed without its compiled kernels")),
        ((vllm.EXTENSIONS[1],), Probe.found("unknown version")),
    ],
)
def test_what_of_vllm_is_there_is_told(site, files, expected):
    for file in files:
        write(site / "vllm" / file)
    found = vllm.probe()
    assert (found.installed, found.version) == (expected.installed, expected.version)
    assert found.reason.startswith(expected.reason) and bool(found.reason) == bool(expected.reason)


I8, F8, F8_BLOCK = VLLM[0], "vllm_fp8_fp8_bf16_scaled_mm", "vllm_fp8_fp8_bf16_scaled_mm_blockwise"


@pytest.mark.parametrize(
    ("name", "sizes", "device", "scheme", "says"),
    [
        (I8, (1, 16, 16), GPU, PER_TENSOR, ""),
        (I8, (1, 24, 16), GPU, PER_TENSOR, "n=24 is not a multiple of 16"),
        (F8, (1, 16, 24), GPU, PER_TOKEN, "k=24 is not a multiple of 16"),
        (F8_BLOCK, (1, 128, 128), GPU, BLOCKWISE, "m=1 is not a multiple of 4"),
        (F8_BLOCK, (4, 192, 128), GPU, BLOCKWISE, "n=192 is not a multiple of 128"),
        (F8_BLOCK, (4, 128, 128), GPU, BLOCKWISE, ""),
        (F8_BLOCK, (4, 128, 128), GPU, PER_TENSOR, "tensor-w-tensor-a needs no kernel named *_blockwise"),
        (F8, (4, 128, 128), GPU, BLOCKWISE, "needs a kernel named *_blockwise"),
        (F8, (4, 128, 128), CPU, PER_TENSOR, "NVIDIA GPU"),
        (F8, (4, 128, 128), replace(GPU, capability=(8, 0)), PER_TENSOR, "8.9 or newer"),
        (I8, (4, 128, 128), replace(GPU, capability=(8, 0)), PER_TENSOR, ""),
        (I8, (4, 128, 128), replace(GPU, capability=(10, 0)), PER_TENSOR, "no int8 kernel for compute capability 10.0"),
        (F8_BLOCK, (4, 128, 128), replace(GPU, capability=(12, 0)), BLOCKWISE, "this build of vLLM has no such kernel"),
    ],
)
def test_vllms_limits_are_refused_with_the_value(monkeypatch, name, sizes, device, scheme, says):
    monkeypatch.setattr(vllm, "_operators", operators)
    m, n, k = sizes
    reason = vllm.kernel(name).supports(problem_of(name, scheme, GemmShape(m=m, n=n, k=k)), device).reason
    assert says in reason and bool(reason) == bool(says)


QUANTIZATION = (
    ("dynamic_scaled_fp8_quant", "Tensor! result, Tensor input, Tensor! scale"),
    ("dynamic_per_token_scaled_fp8_quant", "Tensor! result, Tensor input, Tensor! scale, Tensor? scale_ub"),
    ("dynamic_scaled_int8_quant", "Tensor! result, Tensor input, Tensor! scale, Tensor!? azp"),
    ("static_scaled_fp8_quant", "Tensor! result, Tensor input, Tensor scale"),
    ("static_scaled_int8_quant", "Tensor! result, Tensor input, Tensor scale, Tensor? azp"),
    (
        "per_token_group_fp8_quant",
        "Tensor input, Tensor! output_q, Tensor! output_s, int group_size, float eps, float fp8_min, float fp8_max, "
        "bool scale_ue8m0",
    ),
)
"""Operators of vLLM 0.23 and their arguments."""
MORE_IN_0_33 = {
    "static_scaled_fp8_quant": ", int[]? group_shape=None",
    "per_token_group_fp8_quant": ", bool dummy_is_scale_transposed, bool dummy_is_tma_aligned",
}


class Quantization:
    """vLLM's formulas. They insist on the layouts that the kernels do."""

    @staticmethod
    def dynamic_scaled_fp8_quant(q, x, scale):
        assert scale.numel() == 1
        scale.copy_(x.float().abs().amax() / 448)
        Quantization.static_scaled_fp8_quant(q, x, scale)

    @staticmethod
    def static_scaled_fp8_quant(q, x, scale, group_shape=None):
        assert x.is_contiguous() and scale.numel() == 1 and group_shape is None
        q.copy_((x.float() * (1 / scale)).clamp(-448, 448))

    @staticmethod
    def dynamic_per_token_scaled_fp8_quant(q, x, scale, scale_ub):
        assert scale.shape == (x.shape[0], 1) and scale.is_contiguous() and scale_ub is None
        scale.copy_((x.float().abs().amax(1, keepdim=True) / 448).clamp(min=1 / (448 * 512)))
        q.copy_((x.float() / scale).clamp(-448, 448))

    @staticmethod
    def per_token_group_fp8_quant(x, q, scale, size, eps, low, high, ue8m0, *dummies):
        m, k = x.shape
        assert (size, eps, low, high, ue8m0) == (128, 1e-10, -448.0, 448.0, False) and not any(dummies)
        assert scale.shape == (m, k // size) and scale.stride() == (1, m), "its GEMM wants m contiguous"
        groups = x.float().view(m, -1, size)
        scale.copy_(groups.abs().amax(2).clamp(min=eps) / high)
        q.copy_((groups / scale[:, :, None]).clamp(low, high).view(m, k))

    @staticmethod
    def dynamic_scaled_int8_quant(q, x, scale, azp):
        assert scale.is_contiguous() and scale.numel() == x.shape[0]
        if azp is None:
            absmax = x.float().abs().amax(1, keepdim=True)
            scale.copy_(absmax / 127)
            q.copy_((x * (127 / absmax)).round().clamp(-128, 127))
            return
        assert azp.is_contiguous() and azp.dtype is torch.int32
        low, high = x.float().aminmax(dim=1, keepdim=True)
        scale.copy_((high - low) / 255)
        azp.copy_((-128 - low / scale).round())
        q.copy_(((x / scale).round() + azp).clamp(-128, 127))

    @staticmethod
    def static_scaled_int8_quant(q, x, scale, azp):
        assert scale.numel() == 1 and (azp is None or azp.numel() == 1)
        q.copy_(((x * (1 / scale)).round() + (0 if azp is None else azp)).clamp(-128, 127))


def registered(version: str) -> SimpleNamespace:
    """vLLM's operators, those that quantize registered with PyTorch by the schemas of a version."""
    namespace = f"vllm_{version}"
    library = torch.library.Library(namespace, "FRAGMENT")
    LIBRARIES.append(library)  # an operator goes with its library
    for name, arguments in QUANTIZATION:
        if not hasattr(getattr(torch.ops, namespace), name):
            library.define(f"{name}({arguments}{MORE_IN_0_33.get(name, '') if version == '0_33' else ''}) -> ()")
            library.impl(name, getattr(Quantization, name), "CPU")
    ops = getattr(torch.ops, namespace)
    return SimpleNamespace(**vars(operators()), **{name: getattr(ops, name) for name, _ in QUANTIZATION})


LIBRARIES: list[torch.library.Library] = []
DYNAMIC, STATIC = Activations.DYNAMIC, Activations.STATIC
INSIDE = [
    (*case, activations)
    for activations in (DYNAMIC, STATIC)
    for case in legal(VLLM, activations)
    if vllm.quantizer(problem_of(*case, EVEN, activations))
]


@pytest.mark.parametrize("version", ["0_23", "0_33"])
@pytest.mark.parametrize(("name", "scheme", "activations"), INSIDE, ids=str)
def test_vllm_quantizes_with_its_own_operators_and_multiplies_what_they_wrote(name, scheme, activations, version):
    operands = made(name, scheme, activations=activations)
    launches = vllm.bind(registered(version), operands)
    assert launches.codes is not None and launches.quant is not None and launches.gemm is not None
    places = [tensor.data_ptr() for tensor in vars(launches.codes).values() if tensor is not None]
    for parts in ([launches.total], [launches.quant, launches.gemm]):
        launches.codes.q.view(torch.int8).fill_(5)
        poison(operands.out)
        for launch in parts:
            launch()
        assert judge_codes(launches.codes, operands).reason == ""
        assert check(on_codes(operands, launches.codes), Oracle(), fast_accum=True).reason == ""
    assert places == [tensor.data_ptr() for tensor in vars(launches.codes).values() if tensor is not None]
    operands.a.neg_()  # as after timing: everything is made anew from A
    launches.total()
    assert judge_codes(launches.codes, operands).reason == ""


def test_what_vllm_has_no_operator_for_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(vllm, "_operators", operators)
    monkeypatch.setattr(vllm, "_load", lambda name: name != "dynamic_scaled_fp8_quant")
    per_tensor = problem_of(I8, PER_TENSOR, EVEN, DYNAMIC)
    assert vllm.kernel(I8).supports(per_tensor, GPU).reason == (
        "vLLM has no operator that computes one int8 scale for all of A"
    )
    assert vllm.kernel(F8).supports(problem_of(F8, PER_TOKEN, EVEN, DYNAMIC), GPU)
    assert vllm.kernel(F8).supports(problem_of(F8, PER_TENSOR, EVEN, DYNAMIC), GPU).reason == (
        "this version of vLLM has no operator dynamic_scaled_fp8_quant to quantize activations"
    )
    assert "NVIDIA GPU" in vllm.kernel(F8).supports(problem_of(F8, PER_TENSOR, EVEN, DYNAMIC), CPU).reason


def test_operators_that_quantize_may_be_in_another_file_than_the_kernels(monkeypatch, site):
    loaded = register(monkeypatch, site)
    load = torch.ops.load_library

    def both(path: str) -> None:
        load(path)
        if path.endswith(vllm.EXTENSIONS[1]):
            torch.ops._C.dynamic_per_token_scaled_fp8_quant = print

    monkeypatch.setattr(torch.ops, "load_library", both)
    kernel = vllm.kernel(F8)
    assert loaded == [vllm.EXTENSIONS[0]]
    assert kernel.supports(problem_of(F8, PER_TOKEN, EVEN, DYNAMIC), GPU)
    assert loaded[-1] == vllm.EXTENSIONS[1]


def test_a_file_that_does_not_load_refuses_quantization_alone(monkeypatch, site):
    register(monkeypatch, site)
    load = torch.ops.load_library

    def second_fails(path: str) -> None:
        if path.endswith(vllm.EXTENSIONS[1]):
            raise OSError("libcudart.so.11: cannot open")
        load(path)

    monkeypatch.setattr(torch.ops, "load_library", second_fails)
    kernel = vllm.kernel(F8)
    assert kernel.supports(problem_of(F8, PER_TOKEN, EVEN), GPU)
    assert kernel.supports(problem_of(F8, PER_TOKEN, EVEN, DYNAMIC), GPU).reason == (
        f"vLLM's operators that quantize do not load: libcudart.so.11: cannot open; {vllm.FITTING}"
    )
