"""Where a GGUF file lies beside a base, and transformers' names of the tables in it."""

from __future__ import annotations

from pathlib import Path

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
"""transformers' names of the tables."""


def gguf_beside(directory: Path) -> Path:
    """The file beside the safetensors of a base; need not be there."""
    return directory / "model.gguf"
