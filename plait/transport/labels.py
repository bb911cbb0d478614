"""Labels: words that a client's operator states of it, and that a run may ask its clients for.

Such as ``gpu`` or ``region=eu``. They are compared as whole words and never verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from plait.errors import ConfigError

MAX_LABELS = 16
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}(=[A-Za-z0-9][A-Za-z0-9._-]{0,31})?")


def are_labels(labels: Sequence[str]) -> bool:
    """Whether a peer may send these."""
    return len(labels) <= MAX_LABELS and all(map(_LABEL.fullmatch, labels))


def parse_labels(text: str, *, what: str) -> tuple[str, ...]:
    """Labels of the command line, separated by commas; sorted, each once.

    Raises:
        ConfigError: one of them is no label, or there are too many.
    """
    labels = tuple(sorted({label.strip() for label in text.split(",")})) if text.strip() else ()
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                f"{what} has {label[:64]!a}, expected labels such as gpu or region=eu, separated by commas: letters, "
                "digits, '.', '_' and '-', at most 32 on a side"
            )
    if len(labels) > MAX_LABELS:
        raise ConfigError(f"{what} has {len(labels)} labels, expected at most {MAX_LABELS}")
    return labels
