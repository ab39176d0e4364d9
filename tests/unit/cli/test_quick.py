"""What `quick_bench` measures, with a GPU and without."""

from __future__ import annotations

import pytest

from w8a8_bench.cli.quick import MODEL, SCHEMES, plain, quick
from w8a8_bench.environment import detect
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.providers import registry


def test_a_gpu_measures_every_layer_of_the_model_in_both_formats():
    formats, shapes = quick(cuda=True)
    assert formats == W8A8_FORMATS
    assert {one.shape.m for one in shapes} == {1, 16, 128, 2048, 8192}
    assert {one.labels["model"] for one in shapes} == {MODEL}
    assert len(shapes) == 20
    assert {scheme.name for scheme in SCHEMES} == {"tensor-w-tensor-a", "channel-w-token-a"}


def test_a_cpu_measures_int8_on_two_squares_and_one_layer():
    formats, shapes = quick(cuda=False)
    assert formats == (Format.INT8,)
    assert [one.labels.get("layer", "square") for one in shapes] == ["square", "square", "o_proj"]


def test_one_plain_kernel_of_each_library_and_format_is_chosen():
    every = registry.names(W8A8_FORMATS, of=registry.PROVIDERS)
    chosen = [KernelName.parse(name) for name in plain(every)]
    assert len({(name.provider, name.format) for name in chosen}) == len(chosen)
    assert BASELINE in [name.text for name in chosen]
    assert not any(name.is_blockwise or "azp" in name.variant or "bias" in name.variant for name in chosen)
    for provider in ("pytorch", "cutlass", "triton", "cublaslt", "vllm"):
        assert {name.format for name in chosen if name.provider == provider} >= set(W8A8_FORMATS)


@pytest.mark.parametrize(
    ("wanted", "gpus", "version", "cuda"),
    [
        ("cpu", 8, "cuda = '13.0'", False),
        ("cuda:1", 0, "cuda = None", True),
        ("auto", 1, "cuda: Optional[str] = '13.0'", True),
        ("auto", 1, "cuda: Optional[str] = None", False),
        ("auto", 0, "cuda: Optional[str] = '13.0'", False),
        ("auto", 1, None, False),
    ],
)
def test_the_device_is_told_without_torch(monkeypatch, tmp_path, wanted, gpus, version, cuda):
    spec = None
    if version is not None:
        (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{version}\nhip: Optional[str] = None\n")
        spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})()
    monkeypatch.setattr(detect, "likely_gpus", lambda: gpus)
    monkeypatch.setattr(detect.importlib.util, "find_spec", lambda name: spec)
    assert detect.expects_cuda(wanted) is cuda
