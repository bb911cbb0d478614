"""Which split of a source trains, and which is held out; named as in Hugging Face's datasets: ``train[:1000]``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from plait.errors import ConfigError, DataError, did_you_mean

UNNAMED = ""
"""The split of a source without splits, such as one file; it also answers to ``train``."""

_TRAIN = ("train", "training")
# The first of them that is there is taken.
_HELD_OUT = ("validation", "valid", "val", "dev", "eval", "evaluation", "test", "testing")
_SPLIT = re.compile(r"(?P<name>[^\[\],]+)(\[(?P<start>[0-9]{0,12}):(?P<stop>[0-9]{0,12})\])?")
_GRAMMAR = "TRAIN or TRAIN,HELD_OUT, each the name of a split, or some of its rows such as train[:1000]"


@dataclass(frozen=True)
class SplitPart:
    """Rows of a split, from `start` (counted from 0) to before `stop`; None for all."""

    name: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Choice:
    """What trains and what is held out; None to hold out the end of the training part. Notes name splits left out."""

    train: SplitPart
    held_out: SplitPart | None = None
    notes: tuple[str, ...] = ()


def parse_split(text: str) -> tuple[SplitPart, ...]:
    """Read ``--split``, none, one or two parts; ConfigError if it is something else."""
    parts: list[SplitPart] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        match = _SPLIT.fullmatch(piece)
        if not match:
            raise ConfigError(f"split has {piece!a}, expected {_GRAMMAR}")
        start, stop = match["start"], match["stop"]
        parts.append(SplitPart(match["name"].strip(), int(start or 0), int(stop) if stop else None))
    if len(parts) > 2:
        raise ConfigError(f"split names {len(parts)} splits, expected {_GRAMMAR}")
    return tuple(parts)


def split_in_name(name: str) -> str:
    """The split that a file's or folder's name begins with, such as ``train-00000-of-00003``; empty if none."""
    word = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    return word if word in (*_TRAIN, *_HELD_OUT) else ""


def choose(names: Sequence[str], split: str, *, what: str) -> Choice:
    """Choose among the splits of a source; ConfigError if there is no such split, or none to train is clear."""
    if wanted := parse_split(split):
        parts = tuple(SplitPart(_known(part.name, names, what), part.start, part.stop) for part in wanted)
        return Choice(parts[0], parts[1] if len(parts) > 1 else None)
    if len(names) == 1:
        return Choice(SplitPart(names[0]))
    by_name = {name.lower(): name for name in names}
    train = next((by_name[name] for name in _TRAIN if name in by_name), None)
    if train is None:
        raise ConfigError(f"{what} has the splits {', '.join(names)}; give --split with the one to train on")
    held_out = next((by_name[name] for name in _HELD_OUT if name in by_name), None)
    left = [name for name in names if name not in (train, held_out)]
    notes = (f"{what}: split {', '.join(left)} is not used",) if left else ()
    return Choice(SplitPart(train), SplitPart(held_out) if held_out is not None else None, notes)


def _known(name: str, names: Sequence[str], what: str) -> str:
    if name in names:
        return name
    if UNNAMED in names and name in _TRAIN:
        return UNNAMED
    if not names:
        raise DataError(f"{what} holds no split")
    have = ", ".join(filter(None, names)) or "train"
    raise ConfigError(f"split is '{name}', expected one of {what}: {have}{did_you_mean(name, names)}")
