"""The data sets that plait knows by name; `plait.data.packages` has those that are downloaded.

``stdlib``: the source of Python's standard library, as installed with this interpreter (PSF licence), a TEXT record for
each file. Different Python versions have different text.
"""

import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

from plait.data.records import Dataset, Progress, Record, RecordKind
from plait.errors import MachineError
from plait.settings.choice import Choices

_MIN_BYTES = 200
_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "_bundled", "__pycache__"})


def stdlib(_: Progress) -> Dataset:
    """Read the standard library; MachineError if this Python has no source files."""
    root = Path(sysconfig.get_path("stdlib"))
    records = read_tree(root, packages=sys.stdlib_module_names)
    if not records:
        raise MachineError(
            f"no source of the standard library in '{root}', expected .py files; use your own --data FILE"
        )
    return Dataset.of("stdlib", RecordKind.TEXT, records, natural_column="package")


def read_tree(root: Path, *, packages: frozenset[str]) -> list[Record]:
    """One record for every source file of the named top-level packages and modules.

    Tests, files under 200 bytes and files that are not UTF-8 are left out, and so are packages not in `packages`: files
    that an installation adds (site-packages, sitecustomize, generated build settings).
    """
    records: list[Record] = []
    tops = [top for top in sorted(root.iterdir()) if top.name.removesuffix(".py") in packages]
    for path in (path for top in tops for path in ([top] if top.is_file() else sorted(top.rglob("*.py")))):
        parts = path.relative_to(root).parts
        if _SKIPPED_FOLDERS.intersection(parts[:-1]) or path.stat().st_size < _MIN_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            columns = {"package": parts[0].removesuffix(".py"), "path": "/".join(parts)}
            records.append(Record(text=text, columns=columns))
    return records


def _downloaded() -> Mapping[str, Callable[[Progress], Dataset]]:
    from plait.data.packages import bbc, chatterbot

    return {"bbc": bbc, "chatterbot": chatterbot}


BUILTINS: Choices[Callable[[Progress], Dataset]] = Choices(
    (("bbc", "chatterbot"), _downloaded),
    (("stdlib",), lambda: {"stdlib": stdlib}),
)
"""By name, what loads each: from the cache if it was downloaded before."""
