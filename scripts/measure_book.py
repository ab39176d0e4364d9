"""Measures the book: the records of six models that `recommend` reads if it is given none. In pieces, on an H200.

    python3 scripts/measure_book.py --pieces DIR [--models NAME ...] [--minutes N] [--dry-run]

A piece is a sweep of one model at one TP size, with a file of its own in DIR. The script goes on where it was stopped,
on another day or on another GPU of the same name: a piece that is whole is passed over, one that is not is resumed.
After --minutes the sweep in hand is stopped, and the exit code is 130. When all pieces of a model are whole, they
become one file in the package, src/w8a8_bench/results/h200_book, over an older one.
"""

from __future__ import annotations

import argparse
import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from w8a8_bench.results import book, json_lines  # noqa: E402

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen2.5-72B-Instruct",
    "mistralai/Mistral-Small-24B-Instruct-2501",
)
FEW = (1, 16, 64, 256, 1024, 4096)
BATCH_SIZES = {1: (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192), 2: FEW, 4: FEW, 8: FEW}
"""m by TP size."""

KERNELS = (
    "pytorch_bf16_bf16_bf16_matmul-no-scales",
    "pytorch_fp8_fp8_bf16_scaled_mm",
    "pytorch_fp8_fp8_bf16_scaled_mm_fast_accum",
    "cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum",
    "vllm_fp8_fp8_bf16_scaled_mm",
    "sglang_fp8_fp8_bf16_scaled_mm",
    "cutlass_fp8_fp8_bf16_scaled_mm",
    "triton_fp8_fp8_bf16_scaled_mm",
    "pytorch_i8_i8_bf16_scaled_mm",
    "cublaslt_i8_i8_bf16_scaled_mm",
    "vllm_i8_i8_bf16_scaled_mm",
    "sglang_i8_i8_bf16_scaled_mm",
    "cutlass_i8_i8_bf16_scaled_mm",
    "triton_i8_i8_bf16_scaled_mm",
    "pytorch_fp8_fp8_bf16_scaled_mm_blockwise",
    "cublaslt_fp8_fp8_bf16_scaled_mm_blockwise",
    "vllm_fp8_fp8_bf16_scaled_mm_blockwise",
    "sglang_fp8_fp8_bf16_scaled_mm_blockwise",
    "deepgemm_fp8_fp8_bf16_scaled_mm_blockwise",
    "flashinfer_fp8_fp8_bf16_scaled_mm_blockwise",
    "cutlass_fp8_fp8_bf16_scaled_mm_blockwise",
    "triton_fp8_fp8_bf16_scaled_mm_blockwise",
)
"""All with an output in bf16, which `recommend` compares. What is not installed is a row that says so."""

SCHEMES = ("tensor-w-tensor-a", "channel-w-token-a", "block-w-group-a")
ACTIVATIONS = ("prequantized", "dynamic")
"""In one sweep: what quantizing costs is a ratio of samples of the same block."""

MOST_BYTES = 10 << 20
"""Of all files of the book."""

INTERRUPTED = 130


@dataclass(frozen=True)
class Piece:
    model: str
    tp: int
    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / f"{self.model.replace('/', book.SLASH)}-tp{self.tp}.jsonl"

    @property
    def words(self) -> list[str]:
        """The sweep's command line, after the program's name."""
        return [
            *("model_bench", "--models", self.model, "--tp-sizes", str(self.tp)),
            *("--batch-sizes", *map(str, BATCH_SIZES[self.tp])),
            *("--dtype", "fp8", "int8", "--schemes", *SCHEMES, "--activations", *ACTIVATIONS),
            *("--rigor", "quick", "--no-report", "--out", str(self.file), "--resume", "--kernels", *KERNELS),
        ]

    def is_whole(self) -> bool:
        """Whether every shape of its plan was measured. Raises StoreError if its file can't be read."""
        if not self.file.exists():
            return False
        results = json_lines.read(self.file)
        return len(results.comparisons) == results.headers[0].plan.get("comparisons")


def pieces_of(model: str, directory: Path) -> Iterator[Piece]:
    return (Piece(model, tp, directory) for tp in BATCH_SIZES)


def measure(piece: Piece, until: float | None) -> int:
    """Run the sweep of a piece and return its exit code. At `until`, on the monotonic clock, the sweep is stopped."""
    if until is not None and time.monotonic() >= until:
        return INTERRUPTED
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "-m", "w8a8_bench", *piece.words], env=environment)
    try:
        return process.wait(None if until is None else until - time.monotonic())
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        return INTERRUPTED


def join(model: str, pieces: Sequence[Piece], directory: Path) -> Path:
    """Make one file of the pieces of a model, all whole: their lines one after another."""
    path = directory / book.file_name(model)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
        for piece in pieces:
            packed.write(piece.file.read_bytes())
    joined = json_lines.read(partial)
    if joined.warnings:
        partial.unlink()
        raise json_lines.StoreError(f"{path} was not written: {joined.warnings[0]}; measure that piece anew")
    partial.replace(path)
    size = sum(one.stat().st_size for one in directory.glob(f"*{book.SUFFIX}"))
    cells = len(joined.records)
    print(f"{path}: {cells} cells, {path.stat().st_size / 1e6:.2f} MB; the book has {size / 1e6:.2f} MB")
    if size > MOST_BYTES:
        raise json_lines.StoreError(
            f"{directory} has {size / 1e6:.2f} MB, more than {MOST_BYTES / 1e6:.2f}: leave out kernels or sizes"
        )
    return path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the records that come with w8a8-bench, in pieces.")
    parser.add_argument("--pieces", type=Path, required=True, metavar="DIR", help="where the pieces are kept")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="NAME", help="default: all six")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop after so many; the next call goes on")
    parser.add_argument("--dry-run", action="store_true", help="print the command of each piece that is not whole")
    args = parser.parse_args(argv)
    until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    args.pieces.mkdir(parents=True, exist_ok=True)
    try:
        for model in args.models:
            pieces = list(pieces_of(model, args.pieces))
            for piece in (one for one in pieces if not one.is_whole()):
                print("w8a8-bench", *piece.words, flush=True)
                code = 0 if args.dry_run else measure(piece, until)
                if code not in (0, 3):  # with 3 the sweep is complete, and a kernel is broken: its rows say so
                    how = "the same command goes on" if code == INTERRUPTED else f"exit code {code}, see above"
                    print(f"stopped in {piece.file}: {how}", file=sys.stderr)
                    return code
                if not args.dry_run and not piece.is_whole():
                    raise json_lines.StoreError(f"{piece.file} is not whole: see above, then type the command again")
            if not args.dry_run:
                join(model, pieces, book.DIRECTORY)
    except json_lines.StoreError as error:
        print(f"measure_book.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
