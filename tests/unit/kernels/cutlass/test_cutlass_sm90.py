"""Device code of the CUTLASS kernels as far as a CPU runs or traces it: the tile scheduler, the epilogue's vectors."""

from __future__ import annotations

import inspect
import operator
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from w8a8_bench.kernels.cutlass import compile_cache, variant
from w8a8_bench.kernels.cutlass.geometry import Geometry, TileConfig
from w8a8_bench.kernels.cutlass.sm90.tile_order import tile_at
from w8a8_bench.kernels.cutlass.variant import VECTORS, Element, EpilogueVector, Per, Variant
from w8a8_bench.problem import Azp
from w8a8_bench.problem.formats import Format

if missing := compile_cache.why_missing():
    pytest.skip(f"{missing} (extra: test)", allow_module_level=True)

import cutlass
import torch
from cutlass import Int32, cute
from cutlass.cute.runtime import from_dlpack

from w8a8_bench.kernels.cutlass.sm90.epilogue import Epilogue
from w8a8_bench.kernels.cutlass.sm90.gemm import GemmKernel
from w8a8_bench.kernels.cutlass.sm90.tile_scheduler import DenseTileScheduler

INT8 = Variant(format=Format.INT8, out=Format.BF16, bias=True, azp=Azp.TOKEN)
SWAPPED = TileConfig(tile_m=16, tile_n=64, tile_k=256, swap=True, stages=4)


class Enumeration:
    """Writes what the scheduler says of every tile of every block of a cluster, on the CPU."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    @cute.jit
    def __call__(
        self, out: cute.Tensor, m: cutlass.Int32, n: cutlass.Int32, tiles_m: cutlass.Int32, tiles_n: cutlass.Int32
    ):
        g = self.geometry
        for row_rank in cutlass.range_constexpr(g.cluster_rows):
            for column_rank in cutlass.range_constexpr(g.cluster_columns):
                scheduler = DenseTileScheduler(g, m, n, tiles_m, tiles_n, Int32(row_rank), Int32(column_rank))
                for index in cutlass.range(scheduler.tiles):
                    tile = scheduler.tile(index)
                    line = (row_rank * g.cluster_columns + column_rank) * scheduler.tiles + index
                    out[line, 0] = tile.token
                    out[line, 1] = tile.feature
                    out[line, 2] = Int32(tile.group)
                    out[line, 3] = tile.valid_rows


@pytest.mark.parametrize(
    ("tile", "m", "n"),
    [
        (TileConfig(tile_m=128, tile_n=128, stages=4, cluster=(2, 1), raster=2), 700, 400),
        (replace(SWAPPED, cluster=(1, 2)), 40, 272),
        (SWAPPED, 5, 208),
    ],
)
def test_the_dense_scheduler_hands_out_the_tiles_of_one_group(tile, m, n):
    g = Geometry(tile, Variant(format=Format.FP8, out=Format.BF16))
    tiles_m = -(-m // (tile.tile_m * tile.cluster[0]))
    tiles_n = -(-n // (tile.tile_n * tile.cluster[1]))
    expected = []
    for row_rank in range(g.cluster_rows):
        for column_rank in range(g.cluster_columns):
            rank_m, rank_n = (column_rank, row_rank) if tile.swap else (row_rank, column_rank)
            for index in range(tiles_m * tiles_n):
                along_m, along_n = tile_at(index, tiles_m, tiles_n, tile.raster)
                token = min((along_m * tile.cluster[0] + rank_m) * tile.tile_m, m - tile.tile_m)
                feature = min((along_n * tile.cluster[1] + rank_n) * tile.tile_n, n - tile.tile_n)
                expected.append([token, max(feature, 0), 0, m - token])
    out = torch.full((len(expected), 4), -1, dtype=torch.int32)
    Enumeration(g)(from_dlpack(out), m, n, tiles_m, tiles_n)
    assert out.tolist() == expected


def test_the_kernel_takes_every_vector_in_the_order_of_its_declaration():
    names = list(inspect.signature(GemmKernel.__call__).parameters)
    assert names[names.index("d") + 1 : names.index("max_clusters")] == [vector.name for vector in VECTORS]
    assert all(vector.per is Per.FEATURE for vector in VECTORS if vector.element is Element.OUT)


def test_a_declared_vector_is_an_argument_in_shared_memory_and_applied(monkeypatch):
    before = Geometry(SWAPPED, INT8)
    gate = EpilogueVector("gate", Per.TOKEN, Element.FP32, lambda v: v.bias, lambda value, gate: value * gate)
    monkeypatch.setattr(variant, "VECTORS", (*VECTORS, gate))
    monkeypatch.setattr(compile_cache, "VECTORS", (*VECTORS, gate))
    with_gate, without = compile_cache._signature(INT8), compile_cache._signature(replace(INT8, bias=False))
    assert with_gate[3 + len(VECTORS)].element_type is cutlass.Float32
    assert without[3 + len(VECTORS)] is None
    g = Geometry(SWAPPED, INT8)
    assert g.vector_words == {**before.vector_words, "gate": g.tokens}
    assert g.shared_bytes >= before.shared_bytes


class Number:
    """A number of the DSL, of which operands have one type."""

    def __init__(self, value: float, kind: type = cutlass.Int32) -> None:
        self.value, self.kind = value, kind

    def to(self, kind: type) -> Number:
        return Number(self.value, kind)

    def _with(self, function: Callable[[float, float], float], other: Number) -> Number:
        assert self.kind is other.kind
        return Number(function(self.value, other.value), self.kind)

    def __add__(self, other: Number) -> Number:
        return self._with(operator.add, other)

    def __sub__(self, other: Number) -> Number:
        assert self.kind is cutlass.Int32, "the correction is subtracted in int32"
        return self._with(operator.sub, other)

    def __mul__(self, other: Number) -> Number:
        return self._with(operator.mul, other)


@pytest.mark.parametrize("azp", list(Azp))
@pytest.mark.parametrize("bias", [False, True])
def test_vectors_are_applied_as_the_equation_says(azp, bias):
    numbers = {"scale_a": 0.5, "scale_b": 0.25, "bias": 3.0, "azp_adj": 7.0, "azp": 2.0}
    shared = {name: [Number(number)] for name, number in numbers.items()}
    g = Geometry(SWAPPED, replace(INT8, azp=azp, bias=bias))
    value = Epilogue._apply(SimpleNamespace(geometry=g), Number(100), shared, {Per.TOKEN: 0, Per.FEATURE: 0})
    correction = {Azp.NONE: 0.0, Azp.TENSOR: 7.0, Azp.TOKEN: 14.0}[azp]
    assert value.value == (100 - correction) * 0.5 * 0.25 + (3.0 if bias else 0.0)
    assert value.kind is cutlass.Float32


PLAIN = Variant(format=Format.FP8, out=Format.BF16)
TILE = TileConfig(tile_m=128, tile_n=128, stages=4)

COMPILE_ON_A_FULL_DISK = """
import resource

from w8a8_bench import cache
from w8a8_bench.kernels.cutlass import compile_cache
from w8a8_bench.kernels.cutlass.geometry import TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem.formats import Format

say = cache.cannot_write


def room_elsewhere(error):
    say(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


cache.cannot_write = room_elsewhere
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
variant, tile = Variant(format=Format.FP8, out=Format.BF16), TileConfig(tile_m=128, tile_n=128, stages=4)
assert callable(compile_cache.load(variant, tile))
"""


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """A cache of its own."""
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUTE_DSL_ARCH", variant.SM90A)
    compile_cache.load.cache_clear()
    yield tmp_path / "cache"
    compile_cache.load.cache_clear()


def test_a_kernel_is_compiled_and_loaded_though_the_disk_is_full(disk):
    """No file may be larger than 4 KB until the failure was said, and then there is room in another place."""
    result = subprocess.run([sys.executable, "-c", COMPILE_ON_A_FULL_DISK], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f"nothing can be kept in {disk} (File too large)" in result.stderr
    assert not list(disk.rglob("*.o"))


def test_an_object_is_loaded_from_disk_and_made_anew_if_it_is_cut_short(disk, capsys):
    for damaged in (False, True):
        compile_cache.load.cache_clear()
        assert callable(compile_cache.load(PLAIN, TILE))
        (path,) = disk.rglob("*.o")
        data = path.read_bytes()
        if damaged:
            path.write_bytes(data[: len(data) // 2])
            compile_cache.load.cache_clear()
            assert callable(compile_cache.load(PLAIN, TILE))
            assert path.stat().st_size == len(data)
    assert capsys.readouterr().err.count("is made anew") == 1
