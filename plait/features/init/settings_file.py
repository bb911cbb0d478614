"""A TOML file of the settings that matter at first, each with what it means. Asks no questions."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from plait.config import RunConfig, sections
from plait.known_features import features

_COLUMNS = 90
_OPEN = ("data", "partition", "clients", "base", "rounds", "seq_len")
"""What the file sets; the rest is a comment, at its default."""
_CLOSED = (
    "local_steps",
    "batch_size",
    "method",
    "rank",
    "rule",
    "wire",
    "own_share",
    "dp",
    "secure_aggregation",
    "seed",
)


def settings_file(chosen: Mapping[str, str | int], *, name: str) -> str:
    """The file."""
    defaults = RunConfig()
    parts = [f"# Settings of a run. Run it:  plait simulate --config {name}"]
    parts += [
        _entry(key, chosen.get(key, getattr(defaults, key))) for key in _OPEN if key != "partition" or key in chosen
    ]
    parts.append("# Defaults; remove a # to change one. All others: plait simulate --help-all")
    fields = {name: field for table, _ in sections(features()) for name, field in table.model_fields.items()}
    parts += [_entry(key, fields[key].default, mark="# ") for key in _CLOSED if key in fields]
    return "\n\n".join(parts) + "\n"


def _entry(key: str, value: object, *, mark: str = "") -> str:
    fields = {name: field for table, _ in sections(features()) for name, field in table.model_fields.items()}
    described = " ".join((fields[key].description or "").split()).partition("; ")[0]
    comment = textwrap.fill(described, _COLUMNS, initial_indent="# ", subsequent_indent="# ")
    return f"{comment}\n{mark}{key.replace('_', '-')} = {json.dumps(value)}"
