"""`python -m w8a8_bench`: the command `w8a8-bench`."""

import sys

from w8a8_bench.cli.main import main

sys.exit(main())
