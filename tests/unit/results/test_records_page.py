"""docs/records.md names every field of a records file, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from w8a8_bench.environment.device import Device
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.results.record import SCHEMA, CheckError, ComparisonEnd, Duplicate, Record, RunHeader
from w8a8_bench.timing.settings import Settings, StopRule

PAGE = (Path(__file__).resolve().parents[3] / "docs/records.md").read_text(encoding="utf-8")
SECTIONS = {
    "run": RunHeader,
    "cell": Record,
    "comparison": ComparisonEnd,
    "problem": Problem,
    "error": CheckError,
    "duplicate": Duplicate,
    "shape": GemmShape,
    "device": Device,
    "settings": Settings,
    "stop": StopRule,
}


def fields_of(kind: type) -> list[str]:
    """The names as they stand in a file, in its order; `kind` tells the lines apart."""
    if not issubclass(kind, msgspec.Struct):
        return list(kind.__annotations__)
    tag = [kind.__struct_config__.tag_field] if kind.__struct_config__.tag_field else []
    return [*tag, *(field.encode_name for field in msgspec.structs.fields(kind))]


def rows_of(section: str) -> list[list[str]]:
    (text,) = re.findall(rf"^#+ {section}\n\n(.*?)(?=^#|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| `")]
    assert rows, section
    return rows


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_has_every_field_of_a_struct_and_no_other(section: str) -> None:
    named = [row[0].strip("| `") for row in rows_of(section)]
    assert sorted(named) == sorted(fields_of(SECTIONS[section]))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_type_a_meaning_and_a_schema_that_there_is(section: str) -> None:
    for row in rows_of(section):
        assert len(row) == 4 and all(row), row
        since = row[3].rstrip(" |").removesuffix(", later")
        assert 1 <= int(since) <= SCHEMA, row


def test_the_page_has_no_section_that_is_of_no_struct() -> None:
    titles = re.findall(r"^##+ (.*)$", PAGE, flags=re.MULTILINE)
    assert sorted(titles) == sorted([*SECTIONS, "Inside"])
    assert f"This is schema {SCHEMA}." in PAGE
