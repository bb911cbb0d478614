"""Sentence embeddings by the built-in MiniLM encoder, for partitioning text that has no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from plait.training.bases import Progress, locate_base

_BATCH = 32
_TOKENS = 128


def minilm_embedder(progress: Progress = lambda _: None) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """A function from texts to unit vectors of shape (len(texts), 384).

    Mean of the last hidden states over real tokens, normalised (Sentence-BERT, arXiv 1908.10084).
    """
    directory = locate_base("minilm-l6", progress=progress).directory
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModel.from_pretrained(directory, local_files_only=True, use_safetensors=True).eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
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

    return embed
