"""Built-in `chatterbot`: short conversations in 28 languages (PyPI chatterbot-corpus, BSD).

One PROMPT record per conversation: its first line and the first answer. In longer conversations the corpus means
further turns in some files and alternative answers in others, so the rest is left out. Columns ``language``, ``topic``.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from plait.data.packages import fetch_package_files
from plait.data.records import Dataset, Progress, Record, RecordKind

_REQUIREMENT = "chatterbot-corpus==1.3.3"
_SHA256 = "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"
_MEMBERS = "chatterbot_corpus/data/"


def load(cache: Path, progress: Progress) -> Dataset:
    """Read the corpus, downloading it the first time.

    Raises:
        MachineError, PeerError: as `fetch_package_files`.
    """
    files = fetch_package_files(_REQUIREMENT, sha256=_SHA256, members=_MEMBERS, cache=cache, progress=progress)
    return Dataset.of("chatterbot", RecordKind.PROMPT, read_corpus(files / _MEMBERS), natural_column="language")


def read_corpus(root: Path) -> list[Record]:
    """The conversations of every ``LANGUAGE/TOPIC.yml`` under `root`, in path order."""
    import yaml  # slow to import, and only this built-in needs it

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    records: list[Record] = []
    for path in sorted(root.glob("*/*.yml")):
        columns = {"language": path.parent.name, "topic": path.stem.lower()}
        with path.open(encoding="utf-8") as file:
            # The base loaders give only strings, lists and dicts: no "no" that becomes False, no objects.
            document = cast("dict[str, list[object]]", yaml.load(file, Loader=loader))  # noqa: S506
        for conversation in document.get("conversations", []):
            match conversation:
                case [str(prompt), str(answer), *_] if prompt.strip() and answer.strip():
                    records.append(Record(prompt=prompt.strip(), completion=answer.strip(), columns=columns))
                case _:  # a few files hold lines outside any conversation
                    pass
    return records
