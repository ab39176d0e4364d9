"""Exit codes, and the mistake of a user's that ends a command in one line."""

EXIT_COMPLETE = 0
EXIT_SLOWER = 1
EXIT_BAD_INPUT = 2
EXIT_FAULTS = 3
EXIT_INTERRUPTED = 130


class EndOfOutput(Exception):
    """Whoever read the tables has gone before the sweep ended."""


class UsageError(ValueError):
    """Bad input: said in one line with the value, the reason and the remedy; nothing was run."""
