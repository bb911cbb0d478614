"""Metrics by name: what a client's evaluation adds up, and how the sum over clients becomes figures.

Clients send counts and sums of scores, which add up, also under masks; no record and no prediction with its record
leaves. The figures of labels are scikit-learn's, of counts as weights: those of the pooled predictions, as others
report them (torchmetrics would bring torch to the server). AUROC is of each class against the rest, the mean over
classes; its scores are log-odds on a grid, so that only those of one cell, which count as equal, are not told apart.
"""

import importlib.util
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigError, PeerError, did_you_mean
from plait.plugins import Kind, is_named
from plait.rounds.evaluation import Sums
from plait.settings.choice import parse_choice, split_choices

Confusion = tuple[tuple[int, ...], ...]
"""How often each class (row) was predicted as each (column)."""


class Tally(StrEnum):
    """What clients add up; several metrics may follow from one."""

    CONFUSION = "confusion"  # (classes, classes) counts
    SCORES = "scores"  # (classes, 2, cells) counts of log-odds, of examples of other classes and of the class itself
    TEXT = "text"  # nats, tokens and bytes of the text that counts
    ANSWERS = "answers"  # answers, the seconds that they took, and the sum of each metric's scores


OWN: Mapping[str, Tally] = {
    "accuracy": Tally.CONFUSION,
    "macro_f1": Tally.CONFUSION,
    "confusion": Tally.CONFUSION,
    "auroc": Tally.SCORES,
    "loss": Tally.TEXT,
    "perplexity": Tally.TEXT,
    "bits_per_byte": Tally.TEXT,
    "exact_match": Tally.ANSWERS,
    "token_f1": Tally.ANSWERS,
    "rouge_l": Tally.ANSWERS,
}
"""plait's own metrics; another name is a user's own checker of answers."""

_LABELS = frozenset({Tally.CONFUSION, Tally.SCORES})
_LARGEST = 16.0  # of log-odds; beyond they count as this
_CELLS, _MASKED_CELLS = 1 << 16, 1 << 12  # masked sums have all places, others those that are not 0
_MOST_CLASSES = 128  # of AUROC, and of a confusion matrix
_MOST_BYTES = 1 << 10  # of a token
_MOST_SUM = 1 << 53  # of one client; sums of many stay finite, and counts exact
_SCALE = 1 << 20  # of sums that are no counts, under masks


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of a run, for this many classes (0 for a language model)."""

    names: tuple[str, ...] = ()
    classes: int = 0
    cells: int = _CELLS

    @classmethod
    def of(cls, text: str, classes: int, *, masked: bool = False) -> "RunMetrics":
        """Those that `--eval-metrics` names; ConfigError for an unknown one, or one that does not fit the data."""
        names = split_choices(text)
        fitting = [name for name, tally in OWN.items() if (tally in _LABELS) is bool(classes)]
        for name in names:
            if name not in OWN and not is_named(Kind.METRIC, parse_choice(name)[0]):
                own = f"expected some of {', '.join(OWN)}, or MODULE:NAME of your own"
                raise ConfigError(f"eval-metrics has '{name}', {own}{did_you_mean(name, OWN)}")
            if (_tally_of(name) in _LABELS) is not bool(classes):
                data = "labels" if classes else "no labels"
                raise ConfigError(
                    f"eval-metrics has '{name}', but the data has {data}: expected some of {', '.join(fitting)}"
                )
        for name in ("auroc", "confusion"):
            if name in names and classes > _MOST_CLASSES:
                raise ConfigError(f"eval-metrics has '{name}' for {classes} classes, expected at most {_MOST_CLASSES}")
        return cls(names, classes, _MASKED_CELLS if masked else _CELLS)

    @cached_property
    def places(self) -> Mapping[Tally, range]:
        """The places of what is added up."""
        asked = {_tally_of(name) for name in self.names}
        scored = self.classes if self.classes > 2 else 1  # of two classes, one's scores are the other's
        sizes = {
            Tally.CONFUSION: self.classes**2,
            Tally.SCORES: 2 * self.cells * scored,
            Tally.TEXT: 3,
            Tally.ANSWERS: 2 + len(self.of_answers),
        }
        found: dict[Tally, range] = {}
        end = 0
        for tally in Tally:
            if tally in asked:
                found[tally] = range(end, end := end + sizes[tally])
        return found

    @property
    def size(self) -> int:
        """How many places there are."""
        return max((places.stop for places in self.places.values()), default=0)

    @property
    def of_answers(self) -> tuple[str, ...]:
        """The metrics of generated answers."""
        return tuple(name for name in self.names if _tally_of(name) is Tally.ANSWERS)

    @property
    def scales(self) -> Mapping[str, int]:
        """What the sums are multiplied by under masks, by a name for each place."""
        uncounted = {self.places[Tally.TEXT].start} if Tally.TEXT in self.places else set[int]()
        uncounted |= {*self.places.get(Tally.ANSWERS, ())[1:]}
        return {f"metric {place}": _SCALE if place in uncounted else 1 for place in range(self.size)}

    def check_installed(self) -> None:
        """Refuse metrics of labels without the library that computes them."""
        if _LABELS & self.places.keys():
            check_package("sklearn", "scikit-learn", self.names)

    def of_labels(self, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Sums:
        """Of a batch: the classifier's (examples, classes) output, and the right classes."""
        added = Counter[int]()
        if places := self.places.get(Tally.CONFUSION):
            added.update(int(place) for place in places.start + labels * self.classes + logits.argmax(1))
        if places := self.places.get(Tally.SCORES):
            for index in range(self.classes) if self.classes > 2 else (1,):
                others = np.delete(logits, index, axis=1)
                odds = logits[:, index] - np.logaddexp.reduce(others, axis=1)
                cells = np.floor((odds + _LARGEST) * (self.cells / (2 * _LARGEST))).clip(0, self.cells - 1)
                row = (2 * (index if self.classes > 2 else 0) + (labels == index)) * self.cells
                added.update(int(place) for place in places.start + row + cells.astype(np.int64))
        return added

    def of_text(self, nats: float, tokens: int, size_bytes: int) -> Sums:
        """Of all held-out text."""
        places = self.places.get(Tally.TEXT, range(0))
        return dict(zip(places, (nats, float(tokens), float(size_bytes)), strict=False))

    def of_scores(self, scores: Mapping[str, float], answers: int, seconds: float) -> Sums:
        """Of this many answers, by the sums of their scores."""
        values = (float(answers), seconds, *(scores[name] for name in self.of_answers))
        return dict(zip(self.places[Tally.ANSWERS], values, strict=True))

    def check(self, sums: Sums, *, least: int, most: int) -> None:
        """Refuse (PeerError) what cannot be the sums of so many examples."""
        if any(place >= self.size or not 0 <= value <= _MOST_SUM for place, value in sums.items()):
            raise PeerError(f"sums of metrics are not numbers from 0 to 2^53 at {self.size} places")
        for tally, places in self.places.items():
            values = [sums.get(place, 0.0) for place in places] if len(places) < 1 << 10 else []
            match tally:
                case Tally.TEXT:
                    _, tokens, size_bytes = values
                    fits = tokens >= least and 0 < size_bytes <= _MOST_BYTES * tokens
                case Tally.ANSWERS:
                    answers, _, *scores = values
                    fits = 0 < answers <= most and all(score <= answers + 1e-6 for score in scores)
                case _:
                    rows: dict[int, float] = {}
                    width = len(places) if tally is Tally.CONFUSION else 2 * self.cells
                    for place, value in sums.items():
                        if place in places:
                            row = (place - places.start) // width
                            rows[row] = rows.get(row, 0.0) + (value if value.is_integer() else math.inf)
                    fits = len(rows) == len(places) // width and all(least <= each <= most for each in rows.values())
            if not fits:
                raise PeerError(f"sums of metrics ({tally}) are not of {least} to {most} examples")

    def figures(self, sums: Sums) -> tuple[dict[str, float], Confusion | None]:
        """Each metric that the sums have, by name, and the confusion matrix where it is asked for."""
        found: dict[str, float] = {}
        matrix: Confusion | None = None
        if places := self.places.get(Tally.CONFUSION):
            right, predicted, counts = self._cells_of(sums, places, self.classes)
            library: Any = import_module("sklearn.metrics")
            found["accuracy"] = float(library.accuracy_score(right, predicted, sample_weight=counts))
            found["macro_f1"] = float(library.f1_score(right, predicted, average="macro", sample_weight=counts))
            if "confusion" in self.names:
                rows = library.confusion_matrix(right, predicted, labels=range(self.classes), sample_weight=counts)
                matrix = tuple(tuple(int(each) for each in row) for row in rows)
        if places := self.places.get(Tally.SCORES):
            areas = self._areas(sums, places)
            found |= {"auroc": math.fsum(areas) / len(areas)} if areas else {}
        if places := self.places.get(Tally.TEXT):
            nats, tokens, size_bytes = (sums.get(place, 0.0) for place in places)
            found["loss"] = nats / tokens
            found["perplexity"] = math.exp(min(nats / tokens, 700.0))
            found["bits_per_byte"] = nats / size_bytes / math.log(2)
        if places := self.places.get(Tally.ANSWERS):
            answers, _, *scores = (sums.get(place, 0.0) for place in places)
            found |= {name: score / answers for name, score in zip(self.of_answers, scores, strict=True)}
        ordered = {name: found[name] for name in self.names if name in found}
        if places := self.places.get(Tally.ANSWERS):
            ordered["generation_s"] = sums.get(places[1], 0.0)
        return ordered, matrix

    def _areas(self, sums: Sums, places: range) -> list[float]:
        """The area under the curve of each class that has examples, as others do."""
        rows, cells, counts = self._cells_of(sums, places, self.cells)
        library: Any = import_module("sklearn.metrics")
        found: list[float] = []
        for index in range(len(places) // (2 * self.cells)):
            own = rows // 2 == index
            if len({*rows[own].tolist()}) == 2:
                found.append(float(library.roc_auc_score(rows[own] % 2, cells[own], sample_weight=counts[own])))
        return found

    @staticmethod
    def _cells_of(sums: Sums, places: range, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Row, column and value of each place of a table that is not 0."""
        known = [(place - places.start, value) for place, value in sorted(sums.items()) if place in places and value]
        at = np.array([place for place, _ in known], np.int64)
        return at // width, at % width, np.array([value for _, value in known])


def _tally_of(name: str) -> Tally:
    return OWN.get(name, Tally.ANSWERS)


def check_package(module: str, package: str, names: Iterable[str]) -> None:
    """Refuse metrics without the optional package that computes them."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"eval-metrics are {', '.join(names)}, but {package} is missing: `pip install 'plait[metrics]'`"
        )
