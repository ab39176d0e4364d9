"""A recommendation as one HTML file: what `render.markdown` says, and the long table of layers folded."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from w8a8_bench.report import scriptless
from w8a8_bench.report.recommend.recommend import Recommendation
from w8a8_bench.report.recommend.render import Section, Table, sections

OPTION = re.compile(r"--[a-z0-9-]+")

FOLDED_ROWS = 12
"""A table of more rows is folded: what is read first fits on a screen or two."""


def render(what: Recommendation) -> str:
    first, *others = sections(what)
    lead, *more = first.says
    body = [
        f"<h1>{_text(first.heading)}</h1>",
        f'<p class="lead">{_text(lead)}</p>',
        *(f'<p class="said">{_text(one)}</p>' for one in more),
        *(line for section in others for line in _section(section)),
    ]
    return scriptless.render(f"{first.heading}: {lead}", body)


def _section(section: Section) -> Iterable[str]:
    yield f"<h2>{_text(section.heading)}</h2>"
    for one in section.says:
        yield f"<p>{_text(one)}</p>"
    if section.table and len(section.table.rows) > FOLDED_ROWS:
        rows = len(section.table.rows)
        yield f'<details><summary class="fold">{rows} rows</summary>{_table(section.table)}</details>'
    elif section.table:
        yield _table(section.table)
    if section.points:
        yield f"<ul>{''.join(f'<li>{_text(point)}</li>' for point in section.points)}</ul>"


def _table(table: Table) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        kinds = ("" if place in table.left else ' class="number"' for place in range(len(table.header)))
        inner = (f"<{tag}{kind}>{_text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    rows = "".join(row(cells, "td") for cells in table.rows)
    inner = f"<thead>{row(table.header, 'th')}</thead><tbody>{rows}</tbody>"
    return f'<div class="wide"><table class="named">{inner}</table></div>'


def _text(text: str) -> str:
    """Text as HTML; a command's option is not broken at its hyphens."""
    return OPTION.sub(r'<span class="whole">\g<0></span>', html.escape(text))
