"""`python -m w8a8_bench`: the command `w8a8-bench`."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line answers it: no traceback out of an import

from w8a8_bench.cli.main import main  # noqa: E402

sys.exit(main())
