"""An HTML file that needs nothing else and runs no script: for answers that are read, and not filtered or sorted."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources

STYLE = "scriptless.css"


def render(title: str, body: Sequence[str]) -> str:
    """A page of `body`, which is HTML; `title` is plain text."""
    style = (resources.files(__package__) / "page" / STYLE).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{style}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )
