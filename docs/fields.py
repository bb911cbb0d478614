"""Comments beside the fields of events and records are their documentation on the site (an extension of griffe)."""

from __future__ import annotations

from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldComments(Extension):
    """Reads a field's comment: after it in its line, or in the lines above it."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Give the attribute the docstring."""
        if attr.docstring or attr.parent is None or not attr.parent.is_class or not attr.lineno or not attr.endlineno:
            return
        lines = attr.parent.lines_collection[attr.filepath]
        _, _, beside = lines[attr.endlineno - 1].partition("  # ")
        above: list[str] = []
        for line in reversed(lines[: attr.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip()[2:])
        if (text := beside or " ".join(above)) and not text.startswith(("noqa", "pyright", "type:")):
            attr.docstring = Docstring(f"{text[0].upper()}{text[1:]}.", parent=attr)
