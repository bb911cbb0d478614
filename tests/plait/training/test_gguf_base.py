"""A bare GGUF file as a base: its values, its blocks, its fingerprint, and what is refused."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from plait.errors import DataError
from plait.training import bases, gguf_base
from plait.training.bases import base_at_hand, check_base_name, is_known_to_all, locate_base, locate_config
from plait.training.gguf_header import MOST_ITEMS, read_gguf_header

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
WORDS = [*bytes_to_unicode().values(), "ab", "<|end|>"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _caches_in(tmp_path / "cache", monkeypatch)


def _caches_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bases alone: compiled kernels stay where they are."""
    for module in (bases, gguf_base):
        monkeypatch.setattr(module, "cache_directory", lambda: directory)


def small(kind: type[PretrainedConfig] = LlamaConfig, **settings: Any) -> PreTrainedModel:
    """A model with random values, of which those of vectors are exact in bfloat16."""
    torch.manual_seed(0)
    config = kind(vocab_size=len(WORDS), **{**SHAPE, **settings})
    made = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data = (1 + torch.randn_like(parameter) / 8).bfloat16().float()
    return made.eval()


def write(
    path: Path,
    form: str = "Q8_0",
    *,
    model: PreTrainedModel | None = None,
    tied: bool = True,
    architecture: str = "llama",
    blocks: int = 2,
    also: Callable[[gguf.GGUFWriter], None] | None = None,
) -> PreTrainedModel:
    """A small model, written as llama.cpp's converter writes it; it then has the file's values."""
    model = model or small(tie_word_embeddings=tied)
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    arch = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, SHAPE["num_hidden_layers"])
    kind = gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(blocks)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if architecture == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    elif architecture == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * (len(WORDS) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(WORDS) - 1)
    if also:
        also(writer)
    for name, parameter in model.named_parameters():
        stem, _, leaf = name.rpartition(".")
        theirs = f"{names.get_name(stem)}.{leaf}"
        values = parameter.detach().numpy()
        if parameter.ndim == 1:
            writer.add_tensor(theirs, values)
            continue
        held = quants.quantize(values, kind)
        parameter.data = torch.from_numpy(quants.dequantize(held, kind))
        if architecture == "llama" and (turned := heads.get(stem.rpartition(".")[2])):
            held = held.reshape(turned, 2, -1, held.shape[1]).swapaxes(1, 2).reshape(held.shape)
        writer.add_tensor(theirs, np.ascontiguousarray(held), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def divisors(head: int, theta: float, factor: float) -> np.ndarray:
    """What llama.cpp's converter writes for a Llama 3, computed as it does."""
    found = list[float]()
    for frequency in 1.0 / (theta ** (torch.arange(0, head, 2, dtype=torch.float32) / head)):
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            found.append(1)
        elif wavelength > 8192 / 1:
            found.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def divided(values: np.ndarray) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.add_tensor("rope_freqs.weight", values.astype(np.float32))


def _with(key: str, value: float) -> Callable[[gguf.GGUFWriter], None]:
    """An entry in place of the file's own."""
    kind = gguf.GGUFValueType.FLOAT32 if isinstance(value, float) else gguf.GGUFValueType.INT32

    def put(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, kind)

    return put


LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "architecture", "settings"),
    [
        (LlamaConfig, "llama", {"head_dim": 32, "rope_parameters": LLAMA_3, "tie_word_embeddings": True}),
        (MistralConfig, "llama", {"head_dim": 32, "sliding_window": None}),
        (Qwen2Config, "qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
        (Qwen3Config, "qwen3", {"head_dim": 32}),
    ],
    ids=["llama 3.2", "mistral", "qwen2", "qwen3"],
)
def test_a_file_computes_what_its_model_does(
    tmp_path: Path, kind: type[PretrainedConfig], architecture: str, settings: dict[str, Any]
) -> None:
    scaling = divisors(32, 500000.0, 32.0) if "factor" in settings.get("rope_parameters", {}) else None
    assert scaling is None or len(set(scaling)) > 2
    model = write(
        tmp_path / "a.gguf",
        "F32",
        architecture=architecture,
        model=small(kind, **settings),
        also=None if scaling is None else divided(scaling),
    )
    read = AutoModelForCausalLM.from_pretrained(
        locate_base(str(tmp_path / "a.gguf")).directory, dtype=torch.float32, trust_remote_code=False
    )
    tokens = torch.randint(len(WORDS), (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(read(tokens).logits, model(tokens).logits, rtol=1e-6, atol=1e-6)
    assert getattr(read.config, "sliding_window", None) is None


@pytest.mark.parametrize(("form", "kept"), [("Q8_0", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)])
def test_a_file_is_the_model_that_it_was_made_of(tmp_path: Path, form: str, kept: torch.dtype) -> None:
    model = write(tmp_path / "a.gguf", form, tied=form == "Q8_0")
    located = locate_base(str(tmp_path / "a.gguf"))
    read = AutoModelForCausalLM.from_pretrained(located.directory, dtype=torch.float32, trust_remote_code=False)
    assert type(read) is LlamaForCausalLM
    expected = dict(model.named_parameters())
    for name, values in read.named_parameters():
        rounded = expected[name].detach().to(kept if values.ndim > 1 else torch.bfloat16)
        torch.testing.assert_close(values.detach(), rounded.float(), rtol=0, atol=0)
    assert read.config.tie_word_embeddings == model.config.tie_word_embeddings
    tokens = AutoTokenizer.from_pretrained(located.directory, trust_remote_code=False)
    assert tokens.decode(tokens("cab é\n")["input_ids"]) == "cab é\n"
    assert tokens("ab")["input_ids"] == [WORDS.index("ab")]


@pytest.mark.slow
def test_it_is_one_base_wherever_it_lies_and_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.gguf")
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copy(tmp_path / "a.gguf", tmp_path / "elsewhere" / "b.gguf"))
    told: list[str] = []
    assert base_at_hand(str(copy)) is None
    check_base_name(str(copy))
    first = locate_base(str(tmp_path / "a.gguf"), progress=told.append)
    assert told == ["converting a.gguf (once)"]
    assert locate_base(str(copy), progress=told.append).reference.fingerprint == first.reference.fingerprint
    assert len(told) == 1
    assert base_at_hand(str(copy)) == locate_config(str(copy)) == first.directory
    assert not is_known_to_all(str(copy))
    _caches_in(tmp_path / "another machine", monkeypatch)
    assert locate_base(str(copy)).reference.fingerprint == first.reference.fingerprint


def _tensors(*tensors: tuple[str, int, int]) -> bytes:
    """A header of float32 vectors, each with its size and offset, and room for them."""
    each = [struct.pack("<Q1sIQIQ", 1, name.encode(), 1, size, 0, offset) for name, size, offset in tensors]
    return struct.pack("<4sIQQ", b"GGUF", 3, len(each), 0) + b"".join(each) + bytes(512)


def _lists(count: int) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 0, count)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin as a GGUF file"),
        (b"PK\x03\x04" + bytes(60), "does not begin as a GGUF file"),
        (struct.pack("<4sIQQ", b"GGUF", 3 << 24, 0, 0), "expected 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0), "tensors, expected at most"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), "entries, expected at most"),
        (_lists(1 << 60), "items, expected at most"),
        (_lists(MOST_ITEMS), "cut off, or damaged"),
        (
            struct.pack("<4sIQQQ1025s", b"GGUF", 3, 0, 1, 1025, b"a" * 1025),
            "a name of 1025 bytes, expected at most 1024",
        ),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 60), "name of 1152921504606846976 bytes"),
        (struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 77), "has type 77"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 9, 1), "has type 9"),
        (struct.pack("<4sIQQQ1sIQQIQ", b"GGUF", 3, 1, 0, 1, b"a", 2, 1 << 40, 1 << 20, 0, 0), "it is cut off"),
        (struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"a", 1, 33, 8, 0), "no whole number of blocks"),
        (struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"a", 1, 32, 999, 0), "has type 999"),
        (struct.pack("<4sIQQQ1sI", b"GGUF", 3, 1, 0, 1, b"a", 1 << 31), "dimensions, expected 1 to 4"),
        (_tensors(("a", 64, 0), ("b", 8, 224)), "tensor 'b' of .* begins within another one"),
        (_tensors(("a", 8, 64), ("b", 8, 64)), "tensor 'b' of .* begins within another one"),
    ],
)
def test_a_hostile_header_is_refused_before_anything_is_taken(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as refused:
        locate_base(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    whole = (tmp_path / "a.gguf").read_bytes()
    read_gguf_header(tmp_path / "a.gguf")
    for kept in (3, 20, 200, 3000, len(whole) // 2, len(whole) - 64):
        (tmp_path / "b.gguf").write_bytes(whole[:kept])
        with pytest.raises(DataError):
            read_gguf_header(tmp_path / "b.gguf")


@pytest.mark.slow
def test_what_transformers_would_not_compute_as_llama_cpp_does_is_refused(tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        write(tmp_path / "a.gguf", **options)
        with pytest.raises(DataError, match=message) as raised:
            locate_base(str(tmp_path / "a.gguf"))
        assert "\n" not in str(raised.value)
        assert not list((tmp_path / "cache" / "bases").glob("gguf-*"))

    refused("architecture 'gemma2', expected one of", architecture="gemma2")
    refused("scales its rotary angles", also=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN))
    refused(r"scales its rotary angles \('linear'\)", also=lambda writer: writer.add_rope_scaling_factor(4.0))
    refused("other divisors in rope_freqs.weight than Llama 3 with a factor of 7", also=divided(np.arange(8.0)))
    refused(r"has rope_freqs.weight as F32 \(4,\), expected F32 \(8,\)", also=divided(np.ones(4)))
    refused(
        "it has 'rope_freqs.weight', which transformers' qwen2 has no place for",
        architecture="qwen2",
        model=small(Qwen2Config, tie_word_embeddings=True),
        also=divided(np.ones(8)),
    )
    refused("turns 16 values of a head of 32", also=lambda writer: writer.add_key_length(32))
    refused("heads of 15 values, expected an even number", also=lambda writer: writer.add_key_length(15))
    refused("has 1.5 as 'llama.vocab_size', expected 1 or more", also=_with("llama.vocab_size", 1.5))
    refused("has -4 as 'llama.vocab_size', expected 1 or more", also=_with("llama.vocab_size", -4))
    for theta in (0.0, -1.0, math.nan, math.inf):
        refused("as 'llama.rope.freq_base', expected a positive number", also=_with("llama.rope.freq_base", theta))
    refused("adds nan to the squares in its norms", also=_with("llama.attention.layer_norm_rms_epsilon", math.nan))
    for spoiled in (math.nan, -1.0):
        refused("other divisors", also=divided(np.where(np.arange(8) == 7, spoiled, 1.0)))
    refused("other divisors .* with a factor of inf", also=divided(divisors(16, 10000.0, math.inf)))
    refused("claims 4000000000 blocks", blocks=4_000_000_000)
    refused("the file lacks it", blocks=3)
    refused(r"the file has it as \(258, 64\)", also=lambda writer: writer.add_vocab_size(1 << 30))
