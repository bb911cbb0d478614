import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from plait.adapters import fingerprint, fingerprint_base
from plait.errors import DataError, PeerError

TENSORS = {
    "model.embed.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "model.layer.weight": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "model.position_ids": np.arange(5, dtype=np.int64),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 3,
    "torch_dtype": "float32",
    "transformers_version": "4.1",
    "text_config": {"dtype": "float32", "layers": 2},
}
TOKENIZER = b'{"model": {"type": "BPE"}}'


def write_base(directory: Path, *, shards: int = 1, config: dict[str, object] = CONFIG) -> Path:
    directory.mkdir()
    if shards == 1:
        save_file(TENSORS, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for number in range(shards):
            name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            part = dict(list(TENSORS.items())[number::shards])
            save_file(part, directory / name)
            weight_map.update(dict.fromkeys(part, name))
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_bytes(TOKENIZER)
    return directory


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def change_weight(base: Path) -> None:
    tensors = {**TENSORS, "model.embed.weight": TENSORS["model.embed.weight"].copy()}
    tensors["model.embed.weight"][3, 2] += 1e-5
    # Written aside, by each thread, with the same header: whoever is reading finds every tensor where it was.
    aside = base / f"aside-{threading.get_ident()}"
    save_file(tensors, aside, metadata={"format": "pt"})
    aside.replace(base / "model.safetensors")


def change_config(base: Path) -> None:
    (base / "config.json").write_text(json.dumps({**CONFIG, "rope_theta": 1e6}))


def test_another_party_can_recompute_it_from_the_description(base):
    def sha256(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    embed, layer, position = TENSORS.values()
    config = b'{"architectures":["LlamaForCausalLM"],"hidden_size":3,"text_config":{"layers":2}}'
    lines = [
        "plait-base-1",
        f'["tensor","model.embed.weight","F32",[4,3],"{sha256(embed.tobytes())}"]',
        f'["tensor","model.layer.weight","F16",[2,3],"{sha256(layer.tobytes())}"]',
        f'["tensor","model.position_ids","I64",[5],"{sha256(position.tobytes())}"]',
        f'["config","{sha256(config)}"]',
        f'["file","tokenizer.json","{sha256(TOKENIZER)}"]',
    ]
    assert fingerprint_base(base) == sha256("".join(line + "\n" for line in lines).encode())


@pytest.mark.parametrize("shards", [2, 3])
def test_sharding_does_not_change_it(base, tmp_path, shards):
    assert fingerprint_base(write_base(tmp_path / "sharded", shards=shards)) == fingerprint_base(base)


@pytest.mark.parametrize(
    "volatile",
    [
        {"transformers_version": "5.24.0"},
        {"dtype": "bfloat16"},
        {"use_cache": False},
        {"text_config": {"dtype": "bfloat16", "layers": 2, "transformers_version": "5.24.0"}},
    ],
    ids=lambda volatile: next(iter(volatile)),
)
def test_what_a_library_version_or_a_place_decides_does_not_change_it(base, tmp_path, volatile):
    other = write_base(tmp_path / "other", config={**dict(reversed(CONFIG.items())), **volatile})
    assert fingerprint_base(other) == fingerprint_base(base)


def test_files_that_are_not_loaded_do_not_change_it(base):
    before = fingerprint_base(base)
    (base / "README.md").write_text("hello")
    (base / "pytorch_model.bin").write_bytes(b"never read")
    save_file({"again": np.zeros(3, np.float32)}, base / "consolidated.safetensors")
    assert fingerprint_base(base) == before


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        change_config,
        lambda base: (base / "tokenizer.json").write_bytes(TOKENIZER + b" "),
        lambda base: (base / "chat_template.jinja").write_text("{{ messages }}"),
        lambda base: (base / "tokenizer.json").rename(base / "vocab.json"),
    ],
)
def test_any_other_change_changes_it(base, change):
    before = fingerprint_base(base)
    change(base)
    assert fingerprint_base(base) != before


# --- the cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "made" / "on" / "demand" / "fingerprints.json"


def refuse_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(*_: object) -> str:
        raise AssertionError("the weights were read again")

    monkeypatch.setattr(fingerprint, "_compute", compute)


def test_an_unchanged_base_is_not_read_again(base, cache, monkeypatch):
    first = fingerprint_base(base, cache=cache)
    refuse_to_compute(monkeypatch)
    assert fingerprint_base(base, cache=cache) == first
    (base.parent / "link").symlink_to(base)
    assert fingerprint_base(base.parent / "link", cache=cache) == first


def add_template(base: Path) -> None:
    (base / "chat_template.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize("change", [change_weight, change_config, add_template])
def test_a_changed_base_is_read_again(base, cache, change):
    fingerprint_base(base, cache=cache)
    change(base)
    assert fingerprint_base(base, cache=cache) == fingerprint_base(base)


def test_a_base_that_changes_while_it_is_read_is_not_remembered(base, cache, monkeypatch):
    # A file system's clock may not have moved between two writes.
    os.utime(base / "model.safetensors", ns=(0, 0))
    honest = fingerprint._compute
    monkeypatch.setattr(fingerprint, "_compute", lambda directory: (honest(directory), change_weight(directory))[0])
    fingerprint_base(base, cache=cache)
    assert not cache.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"PLACE": 7}', b'{"PLACE": {"files": {}, "fingerprint": "ab"}}'],
)
def test_a_damaged_cache_counts_as_empty_and_is_mended(base, cache, content, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content.replace(b"PLACE", str(base.resolve()).encode()))
    first = fingerprint_base(base, cache=cache)
    assert first == fingerprint_base(base)
    refuse_to_compute(monkeypatch)
    assert fingerprint_base(base, cache=cache) == first


@pytest.mark.parametrize("how", ["writable", "writable folder", "link"])
def test_a_cache_that_others_can_change_counts_as_empty(base, cache, how):
    first = fingerprint_base(base, cache=cache)
    cache.write_text(cache.read_text().replace(first, "0" * 64))
    assert fingerprint_base(base, cache=cache) == "0" * 64
    if how == "link":
        cache.rename(cache.with_suffix(".planted"))
        cache.symlink_to(cache.with_suffix(".planted"))
    else:
        (cache if how == "writable" else cache.parent).chmod(0o777)
    assert fingerprint_base(base, cache=cache) == first


def test_a_cache_that_cannot_be_written_does_not_matter(base, tmp_path):
    (tmp_path / "file").write_text("")
    assert fingerprint_base(base, cache=tmp_path / "file" / "cache.json") == fingerprint_base(base)


# --- bad bases


def only_pickles(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def without_shard(base: Path) -> None:
    shutil.rmtree(base)
    write_base(base, shards=2)
    (base / "model-00002-of-00002.safetensors").unlink()


def index_leads_outside(base: Path) -> None:
    index = {"weight_map": {"x": f"../{base.name}/model.safetensors"}}
    (base / "model.safetensors").rename(base / "other.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def tensor_in_two_shards(base: Path) -> None:
    shutil.rmtree(base)
    write_base(base, shards=2)
    save_file(TENSORS, base / "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (only_pickles, DataError, "convert them"),
        (lambda base: (base / "config.json").unlink(), DataError, "config.json' is missing"),
        (lambda base: (base / "config.json").write_text("[" * 100_000), DataError, "is not JSON"),
        (lambda base: save_file({}, base / "model.safetensors"), DataError, "hold no tensor"),
        (without_shard, DataError, "is missing: fetch all 2 files"),
        (index_leads_outside, DataError, "expected a .safetensors file beside it"),
        (tensor_in_two_shards, DataError, "is in .* and in .*: keep one"),
        (lambda base: (base / "model.safetensors").write_bytes(b"GGUF" * 9), PeerError, "header claims"),
    ],
)
def test_a_directory_that_is_no_sound_base_is_refused(base, spoil, error, message):
    spoil(base)
    with pytest.raises(error, match=message):
        fingerprint_base(base)
