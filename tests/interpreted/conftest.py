"""Run Triton's kernels under its interpreter, in a process of their own: it is on or off before Triton is imported.

`tests/unit/kernels/triton/test_triton_interpreted.py` starts it; elsewhere nothing here is collected.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
