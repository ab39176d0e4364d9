"""The CUTLASS kernels' functions and provider, as far as they go without a GPU: checks, refusals, the cache."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from copies import replace
from made_devices import CPU, H200

from w8a8_bench import cache as disk
from w8a8_bench.kernels.cutlass import compile_cache, configs, heuristic
from w8a8_bench.kernels.cutlass.geometry import Occupancy, TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import BLOCKWISE, SCHEMES, Activations, GemmShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers.contract import support_of

torch = pytest.importorskip("torch")

from w8a8_bench.kernels.cutlass import api, blockwise_mm, scaled_mm, scaled_mm_azp, warm_up  # noqa: E402
from w8a8_bench.providers import cutlass  # noqa: E402

M, N, K = 5, 48, 160


def operands(dtype=torch.float8_e4m3fn, m=M, n=N, k=K):
    return torch.zeros(m, k).to(dtype), torch.zeros(n, k).to(dtype).t()


def ones(*shape):
    return torch.ones(shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(M, K, dtype=torch.uint8)}, "a is torch.uint8"),
        ({"b": torch.zeros(K, N, dtype=torch.int8)}, "b is torch.int8"),
        ({"b": operands(k=K + 16)[1]}, r"a \[5, 160\] and b \[176, 48\]"),
        ({"a": operands(m=0)[0]}, "none of them 0"),
        ({"a": operands(k=72)[0], "b": operands(k=72)[1]}, "k=72 is not a multiple of 16"),
        ({"b": operands(n=40)[1]}, "n=40 is not a multiple of 16"),
        ({"out_dtype": torch.float32}, "out_dtype torch.float32"),
        ({"scale_a": ones(M + 1, 1)}, r"scale_a \[6, 1\]: expected \[5, 1\] or \[1, 1\]"),
        ({"scale_a": ones(M, 1).half()}, "scale_a is torch.float16"),
        ({"scale_b": ones(1, N + 1)}, r"scale_b \[1, 49\]"),
        ({"bias": torch.zeros(N)}, "bias is torch.float32"),
        ({"bias": torch.zeros(N - 1, dtype=torch.bfloat16)}, r"bias \[47\]"),
        ({}, "a is on cpu: expected a CUDA device"),
        ({"scale_a": ones(1), "scale_b": torch.tensor(1.0)}, "a is on cpu"),
        ({"scale_a": ones(M), "scale_b": ones(N, 1)}, "a is on cpu"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(change, message):
    a, b = operands()
    arguments = {"a": a, "b": b, "scale_a": ones(M, 1), "scale_b": ones(1, N), "out_dtype": torch.bfloat16, **change}
    with pytest.raises(ValueError, match=message):
        scaled_mm(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"azp_adj": torch.zeros(N)}, "azp_adj is torch.float32"),
        ({"azp_adj": torch.zeros(N + 1, dtype=torch.int32)}, r"azp_adj \[49\]"),
        ({"azp": torch.zeros(M + 1, 1, dtype=torch.int32)}, r"azp \[6, 1\]"),
        ({"azp": torch.zeros(M, dtype=torch.int32), "azp_adj": torch.zeros(1, N, dtype=torch.int32)}, "a is on cpu"),
    ],
)
def test_a_zero_point_that_does_not_fit_is_named(change, message):
    a, b = operands(torch.int8)
    arguments = {"azp_adj": torch.zeros(N, dtype=torch.int32), **change}
    with pytest.raises(ValueError, match=message):
        scaled_mm_azp(a, b, ones(M, 1), ones(1, N), torch.bfloat16, **arguments)


@pytest.mark.parametrize("name", ["a", "b", "scale_a", "scale_b", "azp_adj", "azp", "bias"])
@pytest.mark.parametrize("value", [1.0, [1.0], None], ids=str)
def test_what_is_no_tensor_is_named(name, value):
    for function, others in (
        (scaled_mm, {"bias": None}),
        (scaled_mm_azp, {"azp_adj": torch.zeros(N, dtype=torch.int32), "azp": None, "bias": None}),
        (blockwise_mm, {}),
    ):
        a, b = operands(torch.int8 if "azp" in others else torch.float8_e4m3fn)
        scales = {"scale_a": ones(M, 2), "scale_b": ones(2, 1)} if function is blockwise_mm else {}
        given = {"a": a, "b": b, "scale_a": ones(M, 1), "scale_b": ones(1, N), **others, **scales}
        if name not in given or (value is None and name in ("azp", "bias")):
            continue  # it has no such argument, or takes None
        with pytest.raises(TypeError, match=re.escape(f"{name} is {value!r}: expected a tensor")):
            function(**{**given, name: value}, out_dtype=torch.bfloat16)


def test_a_zero_point_for_fp8_is_refused():
    with pytest.raises(ValueError, match="zero points go with int8"):
        scaled_mm_azp(*operands(), ones(1, 1), ones(1, 1), torch.bfloat16, torch.zeros(N, dtype=torch.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale_a": ones(M, 1)}, r"scale_a \[5, 1\]: expected \[5, 2\]"),
        ({"scale_b": ones(1, 2)}, r"scale_b \[1, 2\]: expected \[2, 1\]"),
        ({}, "a is on cpu"),
    ],
)
def test_block_scales_that_do_not_fit_are_named(change, message):
    a, b = operands()
    arguments = {"scale_a": ones(M, 2), "scale_b": ones(2, 1), **change}
    with pytest.raises(ValueError, match=message):
        blockwise_mm(a, b, out_dtype=torch.float16, **arguments)


def test_int8_blocks_are_refused():
    with pytest.raises(ValueError, match="blockwise scales go with float8_e4m3fn"):
        blockwise_mm(*operands(torch.int8), ones(M, 2), ones(2, 1), torch.float16)


@pytest.fixture
def warmed(monkeypatch):
    """Problem and tile of each kernel that is loaded, on a made-up H200."""
    found = []
    monkeypatch.setattr(api.occupancy, "of_device", lambda index: Occupancy.assumed(132))
    monkeypatch.setattr(api, "load_kernel", lambda problem, index, tile: found.append((problem, tile)))
    monkeypatch.setattr(api, "_launch_once", lambda *kernel: None)
    monkeypatch.setattr(api, "_launched", set())
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    return found


@pytest.mark.parametrize("more", [{}, {"bias": True}, {"blockwise": True}])
def test_warming_up_loads_each_kernel_that_any_size_takes_once(warmed, more):
    sizes = range(1, 3000)
    count = warm_up(sizes, 2112, 7168, torch.float8_e4m3fn, torch.bfloat16, **more, device=0)
    tiles = [tile for _, tile in warmed]
    assert len(set(tiles)) == len(tiles) == count < 30
    assert {heuristic.choose(replace(warmed[0][0], m=m), Occupancy.assumed(132)) for m in sizes} == set(tiles)
    assert {tile for _, _, tile in api._launched} == set(tiles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.bfloat16}, "torch.bfloat16 to torch.bfloat16: expected int8"),
        ({"out_dtype": torch.float32}, "to torch.float32"),
        ({"ms": [16, 0]}, "m"),
        ({"n": 40}, "n=40 is not a multiple of 16"),
        ({"azp": "token"}, "fp8 takes no zero point"),
        ({"azp": "row"}, "row"),
    ],
)
def test_warming_up_for_what_no_call_could_be_is_refused(warmed, change, message):
    wanted = {"ms": [16], "n": 64, "k": 64, "dtype": torch.float8_e4m3fn, "out_dtype": torch.bfloat16, "device": 0}
    with pytest.raises(ValueError, match=message):
        warm_up(**{**wanted, **change})
    assert not warmed


FP8 = "cutlass_fp8_fp8_bf16_scaled_mm"
BLOCKS = "cutlass_fp8_fp8_fp16_scaled_mm_blockwise"


def supports(name, device=H200, scheme=None, activations=Activations.PREQUANTIZED, n=4096, k=4096):
    parsed = KernelName.parse(name)
    problem = parsed.problem(GemmShape(m=17, n=n, k=k), parsed.format, scheme or parsed.default_scheme, activations)
    return cutlass.kernel(name).supports(problem, device)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(compile_cache, "why_missing", lambda: None)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("variant", ["", "_bias", "_azp", "_azp_bias", "_azp_pt", "_azp_pt_bias"])
def test_every_scheme_that_has_a_meaning_is_computed_on_hopper(scheme, variant, installed):
    name = f"cutlass_i8_i8_bf16_scaled_mm{variant}"
    problem = KernelName.parse(name).problem(GemmShape(m=1, n=16, k=16), Format.INT8, scheme)
    assert bool(support_of(cutlass.kernel(name), problem, H200)) == (problem.why_illegal() is None)


@pytest.mark.parametrize(("n", "k"), [(2112, 640), (16, 16), (48, 11008)])
def test_a_ragged_last_block_is_computed(n, k, installed):
    assert supports(BLOCKS, n=n, k=k)


def test_refusals_say_what_is_missing(installed):
    ampere = replace(H200, name="A100", capability=(8, 0))
    assert supports(FP8, ampere).reason == "CUTLASS kernels need compute capability 9.0 (Hopper), and A100 has 8.0"
    assert supports(FP8, CPU).reason == "CUTLASS kernels need an NVIDIA GPU; this is a CPU"
    assert "n=4100" in supports(FP8, n=4100).reason
    assert "k=72" in supports(BLOCKS, k=72).reason
    assert "dynamic activations" in supports(FP8, activations=Activations.DYNAMIC).reason
    assert "kernel named *_blockwise" in supports(FP8, scheme=BLOCKWISE).reason
    assert "kernel named *_blockwise" in supports(BLOCKS, scheme=SCHEMES[0]).reason


def test_a_missing_compiler_is_a_refusal(monkeypatch):
    monkeypatch.setattr(compile_cache, "why_missing", lambda: "nvidia-cutlass-dsl is not installed")
    assert supports(FP8).reason == "nvidia-cutlass-dsl is not installed"


PLAIN = Variant(format=Format.FP8, out=Format.BF16)
TILE = TileConfig(tile_m=128, tile_n=128, stages=4)


class Compiled:
    """What a compiler made, as far as it is written to a file."""

    def export_to_c(self, path, *, function_name):
        assert function_name == compile_cache.SYMBOL
        Path(path).write_bytes(b"object")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and what is compiled into it. What is loaded is the bytes of the object."""
    made = []

    def compile_(variant, config, *, remarks=False):
        made.append((variant, config))
        return Compiled()

    runtime = SimpleNamespace(load_module=lambda path, enable_tvm_ffi: SimpleNamespace(gemm=Path(path).read_bytes()))
    cute = SimpleNamespace(runtime=runtime)
    for name, module in (("cutlass", SimpleNamespace(cute=cute)), ("cutlass.cute", cute)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(compile_cache, "_fingerprint", lambda: "f00")
    monkeypatch.setattr(compile_cache, "_compile", compile_)
    compile_cache.load.cache_clear()
    disk._say_once.cache_clear()
    yield made
    compile_cache.load.cache_clear()
    disk._say_once.cache_clear()


def loaded(variant=PLAIN, tile=TILE):
    """As a new process loads it."""
    compile_cache.load.cache_clear()
    return compile_cache.load(variant, tile)


def test_a_kernel_is_compiled_once_and_then_read_from_disk(cache, tmp_path):
    first = loaded()
    assert loaded() == first
    assert first.startswith(b"object")
    assert compile_cache.object_path((PLAIN, TILE)).parent == tmp_path / "cutlass" / "f00"
    assert cache == [(PLAIN, TILE)]


def test_other_variants_and_configurations_are_other_objects(cache):
    others = (replace(PLAIN, bias=True), replace(PLAIN, arch="sm_100a"))
    builds = [(PLAIN, TILE), *((variant, TILE) for variant in others), (PLAIN, replace(TILE, stages=3))]
    assert len({compile_cache.object_path(made) for made in builds}) == len(builds)
    for made in builds:
        loaded(*made)
    assert cache == builds


def torn(data):
    return data[: len(data) // 2]


def flipped(data):
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("damage", [torn, flipped, lambda data: b"", lambda data: bytes(len(data))])
def test_a_damaged_object_is_made_anew(cache, capsys, damage):
    good = loaded()
    path = compile_cache.object_path((PLAIN, TILE))
    path.write_bytes(damage(path.read_bytes()))
    assert loaded() == good
    assert path.read_bytes() == good
    assert f"{path} can't be loaded, and is made anew" in capsys.readouterr().err
    assert len(cache) == 2


def test_an_object_that_the_loader_refuses_is_made_anew(cache, monkeypatch, capsys):
    good = loaded()

    def refuse(path, enable_tvm_ffi):
        monkeypatch.setattr(sys.modules["cutlass.cute"].runtime, "load_module", load)
        raise RuntimeError("no object file")

    load = sys.modules["cutlass.cute"].runtime.load_module
    monkeypatch.setattr(sys.modules["cutlass.cute"].runtime, "load_module", refuse)
    assert loaded() == good
    assert "made anew: no object file" in capsys.readouterr().err


def test_a_cache_that_can_not_be_written_is_said_once_and_done_without(cache, monkeypatch, capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(blocked))
    assert loaded().startswith(b"object")
    assert loaded(tile=replace(TILE, stages=3)).startswith(b"object")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "W8A8_BENCH_CACHE names another directory" in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["write", "rename"])
def test_an_object_that_can_not_be_written_or_renamed_is_kept_elsewhere(
    cache, monkeypatch, capsys, tmp_path, number, call
):
    def fail_below_cache(path):
        if Path(path).is_relative_to(tmp_path):
            raise OSError(number, os.strerror(number), str(path))

    def export(self, path, *, function_name):
        Path(path).write_bytes(b"obj")
        fail_below_cache(path)
        Path(path).write_bytes(b"object")

    def rename(source, target):
        fail_below_cache(target)
        os.rename(source, target)

    if call == "write":
        monkeypatch.setattr(Compiled, "export_to_c", export)
    else:
        monkeypatch.setattr(disk.os, "replace", rename)
    assert loaded().startswith(b"object")
    assert len(cache) == 1, "compiled twice"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and os.strerror(number) in said
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != disk.TAG] == []


def test_objects_of_other_sources_and_of_other_tools_are_not_found(monkeypatch, tmp_path):
    if compile_cache.why_missing():
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    found = set()

    def look():
        compile_cache._fingerprint.cache_clear()
        found.add(compile_cache.object_path((PLAIN, TILE)))

    folder = Path(compile_cache.__file__).parent
    shutil.copytree(folder, tmp_path / "sources")
    look()
    monkeypatch.setattr(compile_cache, "__file__", str(tmp_path / "sources" / "compile_cache.py"))
    look()
    assert len(found) == 1
    for count, name in enumerate(compile_cache.SOURCES, 2):
        with (tmp_path / "sources" / name).open("a") as file:
            file.write("\n")
        look()
        assert len(found) == count, name
    installed = importlib.metadata.version
    for package in compile_cache.PACKAGES:
        changed = {package: "0.0"}
        monkeypatch.setattr(importlib.metadata, "version", lambda name, new=changed: new.get(name) or installed(name))
        look()
    assert len(found) == 1 + len(compile_cache.SOURCES) + len(compile_cache.PACKAGES)
    compile_cache._fingerprint.cache_clear()


def test_sources_that_make_a_kernel_are_in_its_identity():
    folder = Path(compile_cache.__file__).parent
    modules = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    others = {
        "__init__.py",
        "api.py",
        "configs.py",
        "fitted.py",
        "heuristic.py",
        "occupancy.py",
        "tuned.py",
        "sm90/__init__.py",
    }
    assert modules - set(compile_cache.SOURCES) == others
    assert all(name in modules for name in compile_cache.SOURCES)


def test_a_worker_reads_what_the_parent_writes():
    for variant in (PLAIN, replace(PLAIN, bias=True, format=Format.INT8)):
        for tile in configs.portfolio(variant)[:3]:
            assert compile_cache._from_json(compile_cache.json.dumps(compile_cache._to_json((variant, tile)))) == (
                variant,
                tile,
            )
