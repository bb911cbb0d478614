"""Token sequences: what counts of them, the held-out part, and the order in which a training meets them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice
from typing import Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterTask
from plait.wire.settings import Settings

IGNORED = -100  # label of a token that does not count; PyTorch's cross_entropy ignores it

Tokens = NDArray[np.int32]
Turn = dict[str, object]
"""A turn as a chat template gets it."""


@dataclass(frozen=True)
class Example:
    """One sequence.

    Attributes:
        tokens: (length,) token ids.
        labels: (length,) the same ids where the loss counts and `IGNORED` elsewhere; (1,) the class for classification.
        is_cut: whether it, or one of its sides, went on beyond the sequence length.
        record: the place of the record that it begins in.
        ends: of a preference, where its sides end: the chosen reply with its prompt, the rejected one with its prompt,
            which is missing where its end is that of the chosen. Otherwise empty.
    """

    tokens: Tokens
    labels: Tokens
    ends: tuple[int, ...] = ()
    is_cut: bool = field(default=False, compare=False)
    record: int = field(default=0, compare=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of tokens, labels and ends, the last of them twice; equal for equal examples."""
        lengths = " ".join(map(str, (len(self.tokens), len(self.labels), *self.ends, *self.ends[-1:], ""))).encode()
        return hashlib.sha256(lengths + self.tokens.tobytes() + self.labels.tobytes()).digest()

    @property
    def sides(self) -> tuple[Self | None, ...]:
        """Chosen and rejected sequence of a preference; None for one that is missing."""
        parts = zip((0, *self.ends), self.ends, strict=False)
        return tuple(type(self)(self.tokens[a:b], self.labels[a:b]) if a < b else None for a, b in parts)

    @classmethod
    def of_sides(cls, chosen: Self, rejected: Self | None) -> Self:
        """A preference; or a reply alone."""
        sides = (chosen, rejected)
        there = [side for side in sides if side is not None]
        ends = accumulate(0 if side is None else len(side.tokens) for side in sides)
        tokens, labels = (np.concatenate([getattr(side, name) for side in there]) for name in ("tokens", "labels"))
        return cls(tokens, labels, (*ends,), any(side.is_cut for side in there))


@dataclass(frozen=True)
class Split:
    """A client's examples.

    Attributes:
        held_out: never trains.
        cut: examples that went on beyond the length.
        left_out: records without an example.
        groups: the number of the group of each training example; empty where each is its own.
        clusters: the same of each held-out example, by document where there are no groups; empty if no two share one.
        repeated: held-out examples that training text repeats. They train; where there are groups, they are left out;
            and where there is no other, they are held out all the same.
        judge: held out too, and of other groups or documents, for a figure that decides nothing; empty for none.
        judge_clusters: as `clusters`, of these.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    cut: int = 0
    left_out: int = 0
    groups: tuple[int, ...] = ()
    clusters: tuple[int, ...] = ()
    repeated: int = 0
    judge: tuple[Example, ...] = ()
    judge_clusters: tuple[int, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the training part."""
        return digest_of(self.train)

    def measured(self, *, judging: bool) -> tuple[tuple[Example, ...], tuple[int, ...]]:
        """What an evaluation measures, and its clusters."""
        return (self.judge, self.judge_clusters) if judging else (self.held_out, self.clusters)


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None

    def __call__(self, text: str | list[str], **options: object) -> dict[str, list[list[int]]]:
        """Token ids, and what the options request."""
        ...

    def decode(self, tokens: Sequence[int], **options: object) -> str:
        """The text of token ids."""
        ...

    def apply_chat_template(self, conversation: list[Turn], **options: object) -> str:
        """Render a conversation as text."""
        ...


def first_tokens(tokenizer: Tokenizer) -> list[int]:
    """The base's token for the beginning of a text, such as Gemma's ``<bos>``; empty if its tokenizer adds none."""
    begins = cast("list[int]", tokenizer("")["input_ids"])[:1]
    return begins if begins == [tokenizer.bos_token_id] else []


def prompt_tokens(example: Example) -> tuple[int, ...]:
    """What comes before the first token that counts."""
    first = int((example.labels != IGNORED).argmax())
    return tuple(int(token) for token in example.tokens[:first])


def spread(examples: Sequence[Example], most: int, *, by_label: bool = False) -> tuple[Example, ...]:
    """At most this many, evenly spaced; if `by_label` class by class, so that every class has its share."""
    step = max(1.0, len(examples) / most)
    # From the middle of a stretch, so that the first class has no advantage.
    first = step / 2 if by_label else 0.0
    ordered = sorted(examples, key=_label_of) if by_label else examples
    return tuple(ordered[int(first + index * step)] for index in range(min(most, len(examples))))


def in_proportion(examples: Sequence[Example], offset: Callable[[], float]) -> NDArray[np.int64]:
    """Indices in which any few in a row have every class in proportion; a class begins at `offset` (0 to 1)."""
    classes = np.asarray([_label_of(example) for example in examples])
    places = np.empty(len(classes))
    for each in np.unique(classes):
        (own,) = np.nonzero(classes == each)
        places[own] = (np.arange(len(own)) + offset()) / len(own)
    return np.argsort(places, kind="stable")


def _label_of(example: Example) -> int:
    return int(example.labels[0])


def tokens_of(examples: Sequence[Example]) -> int:
    """The number of tokens of examples, together."""
    return sum(len(example.tokens) for example in examples)


def digest_of(examples: Sequence[Example]) -> bytes:
    """SHA-256 (32 bytes) of examples in their order."""
    return hashlib.sha256(b"".join(example.digest for example in examples)).digest()


def count_labels(example: Example, task: AdapterTask) -> int:
    """Number of terms that an example adds to the loss; a preference is one."""
    return 1 if task is AdapterTask.CLASSIFICATION or example.ends else int((example.labels[1:] != IGNORED).sum())


def visited(examples: Sequence[Example], settings: Settings, task: AdapterTask) -> list[Example]:
    """The examples that a training meets, in that order, each once."""
    part = settings.part_of(len(examples))
    # A whole pass meets all, and is among so many; no further one adds any.
    last = min(part.stop * (settings.group_records or 1), part.start + 2 * len(examples))
    met = dict.fromkeys(islice(order(examples, settings.seed, task), part.start, last))
    return [examples[index] for index in met]


def order(examples: Sequence[Example], seed: int, task: AdapterTask) -> Iterator[int]:
    """The indices of the examples: all once in random order, then all again in another order, without end.

    A classifier's are spread class by class, so that a few steps in a row meet every class in proportion to its
    examples (systematic stratified sampling; Cochran, Sampling Techniques, 3rd edition, 1977, chapter 8). A step has
    one label per sequence, and by chance alone four of them may be of one class. Every example is as likely to come
    early as every other.
    """
    generator = np.random.default_rng(seed)
    while True:
        drawn = generator.permutation(len(examples))
        if task is AdapterTask.CLASSIFICATION:
            drawn = drawn[in_proportion([examples[index] for index in drawn], generator.random)]
        yield from (int(index) for index in drawn)
