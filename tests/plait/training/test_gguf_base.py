"""A GGUF file as a base: its values, its fingerprint, and what is refused."""

import shutil
from collections.abc import Callable, Collection, Sequence
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
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from plait.errors import DataError
from plait.training import base_cache, bases
from plait.training.bases import base_at_hand, check_base_name, is_known_to_all, locate_base, locate_config

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
WORDS = [*bytes_to_unicode().values(), "ab", "<|end|>"]
END = len(WORDS) - 1
_PIECES = str.maketrans({"Ġ": "▁", "Ċ": "\n"})
"""How SentencePiece spells what byte-level BPE spells as these."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _caches_in(tmp_path / "cache", monkeypatch)


def _caches_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bases alone: compiled kernels stay where they are."""
    for module in (bases, base_cache):
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
    blocks: int | None = None,
    also: Callable[[gguf.GGUFWriter], None] | None = None,
    words: Sequence[str] = WORDS,
    special: Collection[int] = (END,),
    merges: Sequence[str] = ("a b",),
) -> PreTrainedModel:
    """A small model, written as llama.cpp's converter writes it; it then has the file's values.

    Of its special words, given in their order, the last one ends a text.
    """
    model = model or small(tie_word_embeddings=tied)
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    arch = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    kind = gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(blocks or config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rotation = config.rope_parameters
    writer.add_rope_freq_base(rotation.get("full_attention", rotation)["rope_theta"])
    *_, end = special
    writer.add_pad_token_id(end)
    is_gemma = architecture == "gemma3"
    if is_gemma:
        writer.add_sliding_window(config.sliding_window)
        writer.add_bos_token_id(end)
        writer.add_unk_token_id(end)
        writer.add_add_bos_token(True)
    if architecture in ("qwen3", "gemma3"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    elif architecture == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    writer.add_tokenizer_model("llama" if is_gemma else "gpt2")
    writer.add_token_list([word.translate(_PIECES) for word in words] if is_gemma else list(words))
    writer.add_token_types([3 if number in special else 1 for number in range(len(words))])
    writer.add_token_merges(list(merges))
    writer.add_eos_token_id(end)
    if also:
        also(writer)
    for name, parameter in model.named_parameters():
        stem, _, leaf = name.rpartition(".")
        theirs = f"{names.get_name(stem)}.{leaf}"
        values = parameter.detach().numpy()
        if parameter.ndim == 1:
            writer.add_tensor(theirs, values + 1 if is_gemma else values)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "architecture", "settings"),
    [
        (LlamaConfig, "llama", {}),
        (MistralConfig, "llama", {"sliding_window": None}),
        (Qwen2Config, "qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
        (Qwen3Config, "qwen3", {"head_dim": 128}),
        # The sixth layer looks at everything, the others at 64 tokens.
        (Gemma3TextConfig, "gemma3", {"head_dim": 32, "num_hidden_layers": 6, "sliding_window": 64}),
        (Phi3Config, "phi3", {"pad_token_id": None}),
    ],
    ids=["llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3"],
)
def test_a_file_computes_what_its_model_does(tmp_path, kind, architecture, settings):
    model = write(tmp_path / "a.gguf", architecture=architecture, model=small(kind, **settings))
    directory = locate_base(str(tmp_path / "a.gguf")).directory
    read = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
    for values in model.parameters():
        values.data = values.data.bfloat16().float()
    tokens = torch.randint(len(WORDS), (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(read(tokens).logits, model(tokens).logits, rtol=1e-6, atol=1e-6)
    words = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    assert words.decode(words("cab é\n", add_special_tokens=False)["input_ids"]) == "cab é\n"
    first = [words.bos_token_id] if architecture == "gemma3" else []
    assert words("ab")["input_ids"] == [*first, WORDS.index("ab")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("general.source.huggingface.repository", "someone/a-model", "someone/a-model"),
        ("general.source.repo_url", "https://huggingface.co/someone/a-model", "someone/a-model"),
        ("general.source.repo_url", "https://example.org/someone/a-model", ""),
    ],
)
def test_a_file_may_state_the_model_on_the_hub_that_it_was_made_of(tmp_path, key, value, origin):
    write(tmp_path / "a.gguf", also=lambda writer: writer.add_string(key, value))
    reference = locate_base(str(tmp_path / "a.gguf")).reference
    assert reference.known_to_others().hub_id == (origin or None)


@pytest.mark.slow
def test_it_is_one_base_wherever_it_lies_and_is_written_once(tmp_path, monkeypatch):
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


@pytest.mark.slow
def test_what_is_no_base_is_one_error_and_leaves_nothing(tmp_path):
    def refused(message: str, data: bytes | None = None, **options: Any) -> None:
        if data is None:
            write(tmp_path / "a.gguf", **options)
        else:
            (tmp_path / "a.gguf").write_bytes(data)
        with pytest.raises(DataError, match=message) as raised:
            locate_base(str(tmp_path / "a.gguf"))
        assert "\n" not in str(raised.value)
        assert not list((tmp_path / "cache" / "bases").glob("gguf-*"))

    refused("is not a base that transformers understands", data=b"")
    refused("is not a base that transformers understands", data=b"PK\x03\x04" + bytes(60))
    refused("architecture baichuan is not supported", architecture="baichuan")
    scaled = "scales rotary angles; give the directory"
    refused(scaled, also=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN))
    refused(scaled, also=lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32)))
    refused("it lacks .* tensors", blocks=3)
    write(tmp_path / "a.gguf")
    whole = (tmp_path / "a.gguf").read_bytes()
    for kept in (3, 200, len(whole) // 2):
        refused("is not a base that transformers understands", data=whole[:kept])
