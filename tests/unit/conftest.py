"""Fuzzed tests draw the same examples in every run; with `FUZZ=1` they draw others."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("others", database=None)
settings.load_profile("others" if os.environ.get("FUZZ") else "same")
