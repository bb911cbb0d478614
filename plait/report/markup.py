"""HTML that cannot be broken by what is put into it: text is escaped unless it is markup already.

Knows nothing of reports.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from plait.text import printable

_VOID = frozenset({"img", "meta", "source", "br", "link"})


@dataclass(frozen=True)
class Markup:
    """A piece of finished HTML. Plain strings beside it are text, never markup."""

    source: str


Child = Markup | str


def element(tag: str, /, *children: Child, **attributes: str) -> Markup:
    """An element; text children and attribute values are escaped, and control characters taken out of them.

    An attribute named ``class_`` becomes ``class``, and ``aria_label`` becomes ``aria-label``.
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"' for key, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{fragment(*children).source}</{tag}>")


def fragment(*children: Child) -> Markup:
    """Children one after another, without an element around them."""
    return Markup("".join(child.source if isinstance(child, Markup) else _escape(child) for child in children))


def _escape(text: str) -> str:
    return html.escape(printable(text), quote=True)
