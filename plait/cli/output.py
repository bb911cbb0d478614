"""Machine-readable output of the verbs, on stdout."""

from __future__ import annotations

import json
import sys


def print_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
