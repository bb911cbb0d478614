"""What lies below a folder in which another thread or process writes."""

import os
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """The files below a folder; one that goes away meanwhile counts as empty, which `Path.rglob` does not allow."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]
