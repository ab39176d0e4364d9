"""The files of a sweep: its records, and beside them the original's pickle and the report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from w8a8_bench.cli.sweep_request import SweepRequest
from w8a8_bench.problem.formats import dtype_text
from w8a8_bench.results import json_lines


@dataclass(frozen=True)
class Files:
    """Where the results go. `report` is None if none is written."""

    records: Path
    pickle: Path
    report: Path | None

    @classmethod
    def beside(cls, records: Path, *, with_report: bool) -> Files:
        return cls(records, records.with_suffix(".pkl"), records.with_suffix(".html") if with_report else None)

    @property
    def made_of_records(self) -> tuple[Path, ...]:
        return (self.pickle, *([self.report] if self.report else []))


def files_of(request: SweepRequest) -> Files:
    """Where the results go. Raises StoreError if they can't, before anything is measured."""
    with_report, out, plan = request.with_report, request.out, request.plan
    if out is not None:
        records = Path(out)
        if not out.endswith(".jsonl") or records.suffix != ".jsonl":
            raise json_lines.StoreError(f"--out {out}: expected a name that ends in .jsonl, say results.jsonl")
        files = Files.beside(records, with_report=with_report)
        try:
            records.lstat()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise json_lines.StoreError(f"--out {out} can't be written: {error.strerror}") from None
        for path in files.made_of_records:
            if path.is_dir() or (path.exists() and not records.exists()):
                what = "pickle" if path == files.pickle else "report"
                raise json_lines.StoreError(
                    f"{path} exists, and the {what} of this sweep would overwrite it: choose another --out"
                )
        return files
    stamp = int(time.time())
    shard = f"-shard{plan.shard.number}of{plan.shard.count}" if plan.shard else ""
    while True:
        name = f"{plan.command}-{dtype_text(plan.formats)}{shard}-{stamp}.jsonl"
        files = Files.beside(Path(name), with_report=with_report)
        if not any(path.exists() for path in (files.records, *files.made_of_records)):
            return files
        stamp += 1
