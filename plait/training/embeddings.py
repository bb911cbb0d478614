"""Sentence embeddings by the built-in MiniLM encoder, for partitioning text that has no labels.

The result for a list of texts is cached under the digest of encoder, libraries and texts; otherwise every simulation
on the standard library would spend half a minute on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from plait import machine
from plait.data.cache import cache_directory
from plait.errors import MachineError
from plait.files import is_ours, make_private_directory, write_atomically
from plait.training.bases import Progress, locate_base

_BATCH = 32
_TOKENS = 128


def minilm_embedder(progress: Progress = lambda _: None) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """A function from texts to unit vectors of shape (len(texts), 384).

    Mean of the last hidden states over real tokens, normalised (Sentence-BERT, arXiv 1908.10084).
    """
    base = locate_base("minilm-l6", progress=progress)
    directory = base.directory
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    model = AutoModel.from_pretrained(
        directory, local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()

    @torch.no_grad()
    def computed(texts: Sequence[str]) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        for first in range(0, len(texts), _BATCH):
            batch = tokenizer(
                list(texts[first : first + _BATCH]),
                padding=True,
                truncation=True,
                max_length=_TOKENS,
                return_tensors="pt",
            )
            hidden = model(**batch).last_hidden_state  # (batch, tokens, 384)
            mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            parts.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
        return np.concatenate(parts)

    return lambda texts: _remembered(texts, base.reference.fingerprint, computed)


def _remembered(
    texts: Sequence[str], fingerprint: str, compute: Callable[[Sequence[str]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    digest = hashlib.sha256(json.dumps([fingerprint, machine.versions(), machine.processor(), _TOKENS]).encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    path = Path(cache_directory() / "embeddings" / digest.hexdigest())
    with suppress(OSError, ValueError):
        if is_ours(path):
            return np.frombuffer(path.read_bytes(), "<f4").astype(np.float32).reshape(len(texts), -1)
    found = compute(texts)
    # A cache that cannot be written must not end a run.
    with suppress(MachineError, OSError):
        make_private_directory(path.parent)
        write_atomically(path, found.astype("<f4").tobytes())
    return found
