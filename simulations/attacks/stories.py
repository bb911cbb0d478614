"""BBC's news stories as sentence vectors of the frozen MiniLM encoder, dealt to clients; the adapter sits on top.

Knows nothing of attacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = ("business", "entertainment", "politics", "sports", "tech")
WORD = "tennis"
"""A semantic backdoor: stories of sport that say so are to be called business."""


@dataclass(frozen=True)
class Stories:
    """Vectors (n, 384), class numbers (n,), and which of them the backdoor is about."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    marked: NDArray[np.bool_]

    def part(self, rows: NDArray[np.int64]) -> Stories:
        """Some of them."""
        return Stories(self.x[rows], self.y[rows], self.marked[rows])


def load_stories(cache: Path) -> Stories:
    """All stories; the vectors are computed the first time (about a minute)."""
    if not cache.exists():
        from plait.data import as_dataset

        records = as_dataset("bbc", progress=print).records
        texts = [record.text for record in records]
        vectors = _vectors(texts)
        classes = np.array([CLASSES.index(record.label or "") for record in records])
        words = np.array([WORD in text.lower() for text in texts])
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, x=vectors, y=classes, words=words)
    with np.load(cache, allow_pickle=False) as arrays:
        x, y, words = arrays["x"], arrays["y"], arrays["words"]
    return Stories(x, y, words & (y == CLASSES.index("sports")))


def _vectors(texts: list[str]) -> NDArray[np.float32]:
    """Means of MiniLM's last hidden states over real tokens, normalised (Sentence-BERT, arXiv 1908.10084)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from plait.training.bases import locate_base

    directory = locate_base("minilm-l6", progress=print).directory
    tokenizer, model = (each.from_pretrained(directory, trust_remote_code=False) for each in (AutoTokenizer, AutoModel))
    model.eval()
    parts: list[NDArray[np.float32]] = []
    for first in range(0, len(texts), 32):
        given = {"padding": True, "truncation": True, "max_length": 128, "return_tensors": "pt"}
        batch = tokenizer(texts[first : first + 32], **given)
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
        parts.append(torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1).numpy())
    return np.concatenate(parts)


def deal(stories: Stories, *, clients: int, alpha: float, seed: int) -> tuple[list[Stories], Stories]:
    """A part for each client, by classes in shares drawn from a Dirichlet distribution, and a fifth that none has."""
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(len(stories.y))
    held_out, rest = order[: len(order) // 5], order[len(order) // 5 :]
    rows: list[list[int]] = [[] for _ in range(clients)]
    for number in range(len(CLASSES)):
        own = rest[stories.y[rest] == number]
        cuts = (np.cumsum(generator.dirichlet([alpha] * clients))[:-1] * len(own)).astype(int)
        for client, part in enumerate(np.split(own, cuts)):
            rows[client] += part.tolist()
    spare = iter(generator.permutation(rest).tolist())
    for part in rows:
        part += [next(spare) for _ in range(max(0, 20 - len(part)))]
    return [stories.part(np.array(part)) for part in rows], stories.part(held_out)
