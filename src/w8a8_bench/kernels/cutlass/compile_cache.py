"""Kernels compiled on first use, kept on disk and loaded from there: one object file a variant and configuration.

They lie in the part `cutlass` of the cache (`w8a8_bench.cache`), in one directory for each state of these sources and
versions of the tools, so that what is stale is not found.

As a program (`python -m w8a8_bench.kernels.cutlass.compile_cache`) it compiles what it reads from stdin, a JSON
object a line, and needs no GPU for it. `compile_many` runs several of them. ptxas' remarks are kept beside each object
then.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from w8a8_bench import cache
from w8a8_bench.kernel import CompileError
from w8a8_bench.kernels.cutlass import tuned
from w8a8_bench.kernels.cutlass.geometry import Geometry, TileConfig
from w8a8_bench.kernels.cutlass.variant import SM90A, VECTORS, Element, EpilogueVector, Per, Variant
from w8a8_bench.problem import Azp
from w8a8_bench.problem.formats import Format

PACKAGES = ("nvidia-cutlass-dsl", "apache-tvm-ffi")
"""The compiler, and what calls its functions with PyTorch's tensors: their versions are part of a kernel's identity."""

SOURCES = (
    "compile_cache.py",
    "geometry.py",
    "variant.py",
    *(
        f"sm90/{name}.py"
        for name in ("epilogue", "fragments", "gemm", "mainloop", "pipeline", "ptx", "tile_order", "tile_scheduler")
    ),
)
"""What a compiled kernel depends on."""

SYMBOL = "gemm"
DIGEST_BYTES = hashlib.sha256().digest_size
PATIENCE_S = 1.0
"""Compilation that takes longer says so."""

Build = tuple[Variant, TileConfig]


def why_missing() -> str | None:
    """What has to be installed before anything can be compiled or loaded; None if all is there."""
    for package in PACKAGES:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed: install the extra cu13 or cu12"
    return None


def cache_directory() -> Path:
    """Where objects of these sources and tools lie; it need not exist yet."""
    return cache.root() / "cutlass" / _fingerprint()


@functools.cache
def _fingerprint() -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        digest.update(f" {package} {importlib.metadata.version(package)}".encode())
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def object_path(build: Build) -> Path:
    variant, config = build
    words = f"{config.tile_m}x{config.tile_n}x{config.tile_k}"
    digest = hashlib.sha256(repr(build).encode()).hexdigest()[:12]
    return cache_directory() / f"{variant.name}-{words}-{digest}.o"


@functools.cache
def load(variant: Variant, config: TileConfig) -> Callable[..., None]:
    """The compiled host function, from disk if it is there, else made now.

    It takes (a, b, d, one for each of `VECTORS` or None, max_clusters), as `GemmKernel.__call__` does, and launches on
    PyTorch's current stream. Raises CompileError if the compiler fails.
    """
    path = object_path((variant, config))
    try:
        return _open(path)
    except OSError:
        pass  # it is not there, or can't be read; what can't be written either says so below
    except Exception as error:
        _say(f"{path} can't be loaded, and is made anew: {error}")
    with _progress(f"compiling {variant.name} {config.tile_m}x{config.tile_n} for {variant.arch}"):
        function = _compile(variant, config)
        try:
            _write(function, path)
            return _open(path)
        except OSError as error:
            cache.cannot_write(error)
        with tempfile.TemporaryDirectory(prefix="w8a8-bench-") as scratch:
            elsewhere = Path(scratch, path.name)
            _write(function, elsewhere)
            return _open(elsewhere)  # which reads it whole


def _open(path: Path) -> Callable[..., None]:
    """The host function of an object. Raises OSError if it can't be read, ValueError if it is damaged.

    The loader notices an object that is cut short, but not one whose code has changed, which would run.
    """
    data = path.read_bytes()
    if data[-DIGEST_BYTES:] != hashlib.sha256(data[:-DIGEST_BYTES]).digest():
        raise ValueError("its checksum does not fit")
    from cutlass.cute import runtime

    function: Callable[..., None] = getattr(runtime.load_module(str(path), enable_tvm_ffi=True), SYMBOL)
    return function


def _export(variant: Variant, config: TileConfig, path: Path, *, remarks: bool = False) -> None:
    """Compile and write an object, whole or not at all. Raises CompileError, and OSError if it can't be written."""
    _write(_compile(variant, config, remarks=remarks), path)


def _compile(variant: Variant, config: TileConfig, *, remarks: bool = False) -> Any:
    import cutlass.cute as cute

    from w8a8_bench.kernels.cutlass.sm90.gemm import GemmKernel

    options = f"--gpu-arch {variant.arch} --enable-tvm-ffi" + (" remarks{ptx}" if remarks else "")
    try:
        return cute.compile(GemmKernel(Geometry(config, variant)), *_signature(variant), options=options)
    except Exception as error:
        raise CompileError(f"{variant.name} {config}: {type(error).__name__}: {error}") from error


def _write(function: Any, path: Path) -> None:
    """Write what the compiler made, and its checksum behind it, where an ELF file may have anything."""
    with cache.whole(path) as made:
        function.export_to_c(str(made), function_name=SYMBOL)
        data = made.read_bytes()
        made.write_bytes(data + hashlib.sha256(data).digest())


def _signature(variant: Variant) -> list[Any]:
    """Stand-ins for the arguments. What they say is checked at every call: dtype, device, alignment, shared sizes."""
    import cutlass.cute as cute
    from cutlass import Float32, Int32

    from w8a8_bench.kernels.cutlass.sm90.gemm import ELEMENTS

    def tensor(element: Any, shape: tuple[Any, ...], stride: tuple[Any, ...], align: int) -> Any:
        return cute.runtime.make_fake_tensor(element, shape, stride, assumed_align=align)

    operand, out = ELEMENTS[variant.format], ELEMENTS[variant.out]
    size, stride = cute.sym_int, cute.sym_int64
    m, n, k = size(), size(), size()

    def vector_argument(vector: EpilogueVector) -> Any:
        element = {Element.FP32: Float32, Element.INT32: Int32, Element.OUT: out}[vector.element]
        if vector.may_be_single:  # or a matrix of blocks' scales
            return tensor(element, (size(), size()), (stride(), stride()), 4)
        per_token = vector.per is Per.TOKEN
        return tensor(element, (m, 1) if per_token else (n,), (stride(), stride()) if per_token else (1,), 4)

    return [
        tensor(operand, (m, k), (stride(divisibility=16), 1), 16),
        tensor(operand, (k, n), (1, stride(divisibility=16)), 16),
        tensor(out, (m, n), (stride(divisibility=8), 1), 16),
        *(vector_argument(vector) if vector.when(variant) else None for vector in VECTORS),
        Int32(1),
        cute.runtime.make_fake_stream(use_tvm_ffi_env_stream=True),
    ]


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Say on stderr what is going on once it has taken a while."""
    started = time.perf_counter()
    late = threading.Timer(PATIENCE_S, _say, [f"{what} ..."])
    late.start()
    try:
        yield
    finally:
        late.cancel()
    seconds = time.perf_counter() - started
    if seconds > PATIENCE_S:
        _say(f"{what}: {seconds:.1f} s, once")


def _say(text: str) -> None:
    print(f"w8a8-bench: {text}", file=sys.stderr, flush=True)


def compile_many(builds: Iterable[Build], jobs: int) -> dict[Build, str]:
    """Compile what the disk does not hold yet, in `jobs` processes. Returns the errors of those that failed."""
    wanted = [build for build in dict.fromkeys(builds) if not log_path(build).exists()]
    if not wanted:
        return {}
    cache.make_directory(cache_directory())
    environment = {
        **os.environ,
        "CUTE_DSL_ARCH": SM90A,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }

    def work(share: list[Build]) -> str:
        """What a process that compiles its share says on stderr: nothing, unless it breaks."""
        lines = "\n".join(json.dumps(_to_json(build)) for build in share)
        command = [sys.executable, "-m", "w8a8_bench.kernels.cutlass.compile_cache"]
        return subprocess.run(command, input=lines, capture_output=True, text=True, env=environment).stderr

    shares = [wanted[first::jobs] for first in range(min(jobs, len(wanted)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        said = pool.map(work, shares)
    errors = {}
    for share, text in zip(shares, said, strict=True):
        for build in share:
            if not object_path(build).exists():
                log = log_path(build)
                errors[build] = log.read_text(encoding="utf-8") if log.exists() else text or "the process ended early"
    return errors


def log_path(build: Build) -> Path:
    """What the compiler said of an object that `compile_many` made."""
    return object_path(build).with_suffix(".log")


def _to_json(build: Build) -> dict[str, object]:
    variant, config = build
    return {"variant": asdict(variant), "config": tuned.to_json(config)}


def _from_json(line: str) -> Build:
    data = json.loads(line)
    fields = data["variant"]
    enums = {"format": Format(fields["format"]), "out": Format(fields["out"]), "azp": Azp(fields["azp"])}
    return Variant(**{**fields, **enums}), tuned.from_json(data["config"])


def main() -> None:
    """Compile each build on stdin, its compiler's output into its log."""
    for line in sys.stdin:
        build = _from_json(line)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            # The compiler writes to the file descriptor, below Python's sys.stderr.
            own = os.dup(2)
            os.dup2(log.fileno(), 2)
            try:
                _export(*build, object_path(build), remarks=True)
            except CompileError as error:
                print(error, file=sys.stderr, flush=True)
            finally:
                sys.stderr.flush()
                os.dup2(own, 2)
                os.close(own)
            log.seek(0)
            log_path(build).write_text(log.read(), encoding="utf-8")


if __name__ == "__main__":
    main()
