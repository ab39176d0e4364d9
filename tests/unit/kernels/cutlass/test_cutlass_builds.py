"""What the compiler makes of the CUTLASS kernels: tensor-core instructions, no spills, within the launch's limits.

Needs the compiler (`nvidia-cutlass-dsl`, `apache-tvm-ffi`, `nvidia-cuda-nvdisasm`: the extra `test`), and no GPU.
Objects are kept in the cache that users' runs have, so that only the first run compiles.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from copies import replace

from w8a8_bench.kernels.cutlass import compile_cache, configs, heuristic, tuned
from w8a8_bench.kernels.cutlass.geometry import REGISTERS_OF_SM, Geometry, Occupancy
from w8a8_bench.kernels.cutlass.variant import SM90A, Variant
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry

DISASSEMBLER = "nvidia-cuda-nvdisasm"
CUDA_MACHINE = 190
"""`e_machine` of an ELF file with device code."""

H200 = Occupancy.assumed(132)
SMALL, LARGE = (GemmShape(m=m, n=4096, k=4096) for m in (16, 4096))
MOST_BUILDS = 120


def disassembler() -> Path | None:
    try:
        files = importlib.metadata.files(DISASSEMBLER) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "nvdisasm"), None)


missing = compile_cache.why_missing() or (None if disassembler() else f"{DISASSEMBLER} is not installed")
pytestmark = pytest.mark.skipif(missing is not None, reason=f"{missing} (extra: test)")


def problems() -> list[Problem]:
    """Every kernel of the registry in its default scheme, for others are the same kernel: where tiles are largest and
    registers fewest, and those that write bf16 without an end of their own for few tokens too."""
    names = next(provider for provider in registry.PROVIDERS if provider.name == "cutlass")
    parsed = [KernelName.parse(name) for name in names.kernels + names.on_request]
    large = [name.problem(LARGE, name.format, name.default_scheme) for name in parsed]
    return large + [
        replace(one, m=SMALL.m, n=SMALL.n, k=SMALL.k)
        for one in large
        if Variant.of(one).name.endswith(("_bf16", "wise"))
    ]


def default_builds() -> list[compile_cache.Build]:
    return [(Variant.of(problem), heuristic.choose(problem, H200)) for problem in problems()]


def longest_ends() -> list[Variant]:
    """Of each kind of sums the variant with the longest end of a tile, which the registry names last."""
    large = [problem for problem in problems() if problem.shape == LARGE]
    return list({(v.format, v.blockwise): v for v in map(Variant.of, large)}.values())


def family_builds() -> list[compile_cache.Build]:
    """Of each kind of sums a kernel for many tokens, with the longest end, and one for few."""
    families = {(v.format, v.blockwise, tile.swap): (v, tile) for v, tile in default_builds()}
    assert len(families) == 6
    return list(families.values())


def tuned_builds() -> list[compile_cache.Build]:
    choices = tuned.choices(SM90A, H200.name, H200.sm_count)
    return [(v, tile) for v in longest_ends() for family, tile in choices if family == tuned.family(v)]


def portfolio_builds() -> list[compile_cache.Build]:
    """Every configuration that the heuristic may choose, where a tile's end is longest: FP8 without blocks has the same
    tiles as INT8, and fewer vectors."""
    variants = [variant for variant in longest_ends() if variant.format is Format.INT8 or variant.blockwise]
    return [(variant, tile) for variant in variants for tile in configs.portfolio(variant)]


def cubin(path: Path) -> bytes:
    """The device code inside an object file."""
    data = path.read_bytes()
    for found in re.finditer(b"\x7fELF", data[1:]):
        start = found.start() + 1
        if int.from_bytes(data[start + 18 : start + 20], "little") == CUDA_MACHINE:
            return data[start:]
    raise AssertionError(f"{path} holds no device code")


def opcodes(code: bytes) -> Counter[str]:
    tool = disassembler()
    assert tool is not None
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", text, re.MULTILINE))


def faults(made: compile_cache.Build) -> list[str]:
    variant, tile = made
    g = Geometry(tile, variant)
    log = compile_cache.log_path(made).read_text(encoding="utf-8")
    found = []
    if "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" not in log:
        found.append("spills, or has a stack")
    if warnings := re.findall(r"C75\d\d[^\n]*", log):
        found.append(f"serializes its tensor-core instructions: {warnings[0]}")
    registers = int(re.findall(r"Used (\d+) registers", log)[-1])
    if registers > g.register_limit:
        found.append(f"{registers} registers: {g.register_limit} fit {g.threads} threads")
    if registers * g.threads * g.blocks_of_sm > REGISTERS_OF_SM:
        found.append(f"{registers} registers: shared memory has room for {g.blocks_of_sm} blocks, registers have not")
    counts = opcodes(cubin(compile_cache.object_path(made)))
    instruction = "IGMMA" if variant.format is Format.INT8 else "QGMMA"
    if not counts[instruction]:
        found.append(f"no {instruction}")
    found += [f"{counts[memory]} {memory}" for memory in ("STL", "LDL") if counts[memory]]
    pieces = 1 + tile.tile_m // tile.cluster[1] // g.loaded_tokens
    boxes = tile.tile_k // 128 * pieces  # one is as wide as the swizzle
    if counts["UTMALDG"] != boxes:
        found.append(f"{counts['UTMALDG']} UTMALDG: expected {boxes}, for {pieces} pieces of tiles")
    return found


def check(builds: list[compile_cache.Build]) -> None:
    builds = list(dict.fromkeys(builds))
    assert len(builds) <= MOST_BUILDS
    jobs = min(16, os.cpu_count() or 1)
    assert compile_cache.compile_many(builds, jobs=jobs) == {}
    with ThreadPoolExecutor(jobs) as pool:
        wrong = dict(zip(builds, pool.map(faults, builds), strict=True))
    assert {f"{variant.name} {tile}": found for (variant, tile), found in wrong.items() if found} == {}


def test_a_kernel_of_each_family_compiles_to_tensor_core_instructions_without_spills():
    check(family_builds())


@pytest.mark.slow
def test_every_kernel_compiles_to_tensor_core_instructions_without_spills():
    assert tuned_builds()
    check(default_builds() + tuned_builds())


@pytest.mark.slow
def test_every_configuration_that_may_be_chosen_compiles_without_spills():
    check(portfolio_builds())


def test_a_spilling_kernel_would_be_seen(tmp_path, monkeypatch):
    made = family_builds()[0]
    assert compile_cache.compile_many([made], jobs=1) == {}
    log = tmp_path / "log"
    log.write_text("4 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\nC7510\nUsed 999 registers")
    monkeypatch.setattr(compile_cache, "log_path", lambda build: log)
    assert len(faults(made)) == 4
