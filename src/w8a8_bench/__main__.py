"""`python -m w8a8_bench`: the command `w8a8-bench`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line answers it: no traceback out of an import

from w8a8_bench.cli.main import run_and_exit  # noqa: E402

run_and_exit()
