"""The original's script: the same command line and functions, from the package in `src/`, installed or not."""

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line answers it: no traceback out of an import

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from w8a8_bench.cli.main import run_and_exit

if __name__ == "__main__":
    run_and_exit(prog="w8a8_benchmarks.py")

try:
    from w8a8_bench.compat import bench_fp8, bench_int8
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "torch is not installed: pip install 'w8a8-bench[cpu]', or 'w8a8-bench[cu13]' for a GPU with CUDA 13",
        name="torch",
    ) from None

__all__ = ["bench_fp8", "bench_int8"]
