"""What the runs of one process have in common and load once: data, one base, tokenised text, losses before training.

It changes no result: what is kept is what would be loaded or computed again.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import plait
from plait.config import RunConfig
from plait.data import Dataset, Progress, Record, as_dataset, cache_directory
from plait.errors import MachineError
from plait.rounds.evaluation import SequenceLosses
from plait.run import Run
from plait.system import machine
from plait.system.files import is_ours, make_private_directory, write_atomically
from plait.training.examples import Example, Tokenizer
from plait.training.resident import ResidentBase
from plait.training.tokenization import ExampleFormat, tokenise

K = TypeVar("K")
V = TypeVar("V")

# Clients whose tokens are kept. With more, text is tokenised again.
_CLIENTS_KEPT = 4096
_DATASETS_KEPT = 4
_FOLDER = "losses"


class Loaded:
    """Data, base and tokens that are in memory already."""

    def __init__(self) -> None:
        self._datasets: OrderedDict[tuple[str, str, str], Dataset] = OrderedDict()
        self._base: ResidentBase | None = None
        self._tokens: OrderedDict[bytes, list[Example]] = OrderedDict()
        self.losses = RememberedLosses(cache_directory())

    def dataset(self, config: RunConfig, progress: Progress) -> Dataset:
        """The data that a run's settings name (see `plait.data.as_dataset`)."""
        named = config.data, config.columns, config.split
        make = partial(as_dataset, config.data, columns=config.columns, split=config.split, progress=progress)
        return remembered(self._datasets, named, _DATASETS_KEPT, make)

    def base(self, run: Run) -> ResidentBase:
        """The run's base; takes the place of the one before if that is another."""
        found = run.load_base()
        if self._base is None or self._base.identity != found.identity:
            if self._base is not None:
                found.adopt(self._base)
            self._base = found
        return self._base

    def tokens(self, records: Sequence[Record], tokenizer: Tokenizer, form: ExampleFormat) -> list[Example]:
        """The examples made from the records (see `plait.training.tokenization.tokenise`)."""
        how = (self._base.fingerprint if self._base else b"", form, len(records))
        digest = hashlib.sha256(repr(how).encode())
        for record in records:
            text = repr(record).encode(errors="surrogatepass")
            digest.update(len(text).to_bytes(8, "big") + text)
        return remembered(self._tokens, digest.digest(), _CLIENTS_KEPT, partial(tokenise, records, tokenizer, form))


def remembered(kept: OrderedDict[K, V], key: K, most: int, make: Callable[[], V]) -> V:
    """The value of a key, made if it is not among the `most` that were asked for last."""
    if key not in kept:
        while len(kept) >= most:
            kept.popitem(last=False)
        kept[key] = make()
    kept.move_to_end(key)
    return kept[key]


class RememberedLosses:
    """Losses measured earlier in a folder of the cache, for the same adapter on the same tokens on this machine.

    Every run evaluates its initial adapter before round 1, and LoRA's changes nothing yet. The name of an entry is the
    digest of everything that the result depends on, including code and libraries. Holds losses and counts, no text.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / _FOLDER

    def recall(self, inputs: Sequence[bytes], measure: Callable[[], SequenceLosses]) -> SequenceLosses:
        """The losses for these inputs, measured if not cached."""
        digest = hashlib.sha256(_surroundings())
        for part in inputs:
            digest.update(len(part).to_bytes(8, "big") + part)
        path = self._folder / f"{digest.hexdigest()}.json"
        if (known := _read(path)) is not None:
            return known
        found = measure()
        # A cache that cannot be written must not end a run.
        with suppress(MachineError, OSError):
            make_private_directory(self._folder)
            write_atomically(path, found.to_bytes())
        return found


def _read(path: Path) -> SequenceLosses | None:
    if not is_ours(path):
        return None
    try:
        return SequenceLosses.from_bytes(path.read_bytes())
    except OSError:
        return None


@cache
def _surroundings() -> bytes:
    """Digest of the measuring code, the libraries, and the processor."""
    digest = hashlib.sha256(json.dumps([machine.versions(), machine.processor(), machine.cores()]).encode())
    package = Path(plait.__file__).parent
    for file in sorted(path for path in (package / "training").rglob("*") if path.suffix in (".py", ".cpp", ".json")):
        digest.update(file.read_bytes())
    return digest.digest()
