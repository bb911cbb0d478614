from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.training import embeddings
from plait.training.embeddings import minilm_embedder


@pytest.mark.slow
def test_alike_texts_lie_close_and_what_was_computed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "cache_directory", lambda: tmp_path)
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "import os"]
    first = minilm_embedder()(texts)
    assert first.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert first[0] @ first[1] > first[0] @ first[2] + 0.3

    def fail(_texts: object) -> None:
        raise AssertionError

    fingerprint = embeddings.locate_base("minilm-l6").reference.fingerprint
    np.testing.assert_array_equal(embeddings._remembered(texts, fingerprint, fail), first)
    with pytest.raises(AssertionError):
        embeddings._remembered([*texts, "another"], fingerprint, fail)
    # So is an entry that others can change, and one that is damaged.
    for entry in (tmp_path / "embeddings").iterdir():
        entry.write_bytes(bytes(first.nbytes))
        entry.chmod(0o666)
    np.testing.assert_array_equal(minilm_embedder()(texts), first)
    for entry in (tmp_path / "embeddings").iterdir():
        entry.write_bytes(b"damaged")
    np.testing.assert_array_equal(minilm_embedder()(texts), first)
