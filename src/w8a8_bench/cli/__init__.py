"""The command line: `main` parses and dispatches, then a file per command, or per family of commands."""
