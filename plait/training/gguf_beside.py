"""Where a GGUF file lies beside a base, transformers' names of the tables in it, and the order of its rows.

llama.cpp turns neighbouring rows of a head where transformers turns both halves, so rows of queries and keys are put
back into transformers' order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
"""transformers' names of the tables."""
_TURNED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}


def gguf_beside(directory: Path) -> Path:
    """The file beside the safetensors of a base; need not be there."""
    return directory / "model.gguf"


def turned_heads(name: str, architecture: str) -> str:
    """The config's name of how many heads' rows llama.cpp has turned in a tensor; empty for none."""
    return _TURNED.get(name.split(".")[-2], "") if architecture == "llama" and name.count(".") else ""


def in_transformers_order(held: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """(rows, bytes of a row) of queries or keys, as llama.cpp has turned them, in transformers' order."""
    turned = held.reshape(heads, -1, 2, held.shape[1])
    return np.ascontiguousarray(turned.swapaxes(1, 2)).reshape(held.shape)
