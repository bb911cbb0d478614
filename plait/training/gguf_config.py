"""The config of a model from the header of its GGUF file, as llama.cpp would compute it.

Llama 3's rotary scaling is no entry of a file but a tensor of divisors, one for each pair of a head. It is a setting of
transformers' if the divisors are those of its formula. Knows no values of weights, and no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, PretrainedConfig

from plait.adapters.strict_json import shown
from plait.errors import DataError
from plait.training.gguf_header import GgufHeader

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # Mistral's is llama
_DIVISORS = "rope_freqs.weight"
_NEEDED = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_SIZES = (
    *(key for key in _NEEDED if "epsilon" not in key),
    "attention.head_count_kv", "attention.key_length", "rope.dimension_count", "vocab_size",
)  # fmt: skip
_TOKENS = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.unknown_token_id": "unk_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
# Those of every Llama from 3.1 on; the fourth, the factor, differs.
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_ROUNDING = 1e-5  # of divisors that were computed in float32


def config_of_gguf(path: Path, header: GgufHeader) -> PretrainedConfig:
    """The config.

    Raises:
        DataError: it is of another architecture, incomplete, or has what transformers does not compute.
    """
    values = header.values
    architecture = values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise DataError(
            f"'{path}' has the architecture {shown(architecture)}, expected one of {', '.join(ARCHITECTURES)}; "
            "give the directory of the model that it was made of"
        )

    def own(key: str) -> Any:
        return values.get(f"{architecture}.{key}")

    if lacking := next((key for key in _NEEDED if own(key) is None), None):
        raise DataError(f"'{path}' lacks '{architecture}.{lacking}', expected every size of its model")
    for key in _SIZES:
        if own(key) is not None and (type(own(key)) is not int or own(key) < 1):
            raise DataError(f"'{path}' has {shown(own(key))} as '{architecture}.{key}', expected 1 or more")
    epsilon = own("attention.layer_norm_rms_epsilon")
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise DataError(f"'{path}' adds {shown(epsilon)} to the squares in its norms, expected 0 to 1")
    width, heads = own("embedding_length"), own("attention.head_count")
    config: dict[str, object] = {name: own(key) for key, name in _NEEDED.items()}
    config |= {name: values[key] for key, name in _TOKENS.items() if key in values}
    config["num_key_value_heads"] = own("attention.head_count_kv") or heads
    config["vocab_size"] = own("vocab_size") or header.counts.get("tokenizer.ggml.tokens", 0)
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    head = own("attention.key_length") or own("rope.dimension_count") or width // heads
    if head < 2 or head % 2:
        raise DataError(f"'{path}' has heads of {head} values, expected an even number: they are turned in pairs")
    if own("rope.dimension_count") not in (None, head):
        raise DataError(
            f"'{path}' turns {own('rope.dimension_count')} values of a head of {head}, expected all of them; "
            "give the directory of the model that it was made of"
        )
    # transformers' Qwen2 has no such setting of its own.
    if architecture != "qwen2" or head * heads != width:
        config["head_dim"] = head
    config["rope_parameters"] = _rotation(path, header, str(architecture), head)
    return AutoConfig.for_model(str(architecture), **config)


def is_setting(name: str, config: PretrainedConfig) -> bool:
    """Whether a tensor of a file is no weight of the model, but in its config."""
    return name == _DIVISORS and config.model_type == "llama"


def _rotation(path: Path, header: GgufHeader, architecture: str, head: int) -> Mapping[str, object]:
    """The settings of the rotary angles."""
    theta = header.values.get(f"{architecture}.rope.freq_base", 10000.0)
    if not isinstance(theta, int | float) or not 0 < theta < math.inf:
        raise DataError(f"'{path}' has {shown(theta)} as '{architecture}.rope.freq_base', expected a positive number")
    theta = float(theta)
    plain: dict[str, object] = {"rope_type": "default", "rope_theta": theta}
    scaling = header.values.get(f"{architecture}.rope.scaling.type")
    factors = [header.values.get(f"{architecture}.rope.{key}") for key in ("scaling.factor", "scale_linear")]
    # Without a type llama.cpp takes a factor for a linear one.
    if scaling not in (None, "none") or (scaling is None and any(factor not in (None, 0, 1) for factor in factors)):
        raise DataError(
            f"'{path}' scales its rotary angles ({shown(scaling or 'linear')}), which plait does not read out of a "
            "GGUF file; give the directory of the model that it was made of"
        )
    if architecture != "llama" or _DIVISORS not in header.tensors:
        return plain
    tensor = header.tensors[_DIVISORS]
    if tensor.kind is not gguf.GGMLQuantizationType.F32 or tensor.shape != (head // 2,):
        raise DataError(f"'{path}' has {_DIVISORS} as {tensor.kind.name} {tensor.shape}, expected F32 {(head // 2,)}")
    divisors = tensor.rows(path).view(np.float32)[0].astype(np.float64)
    factor = float(divisors.max())
    if np.all(divisors == 1):
        return plain
    scaled: dict[str, object] = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA_3}
    with np.errstate(all="ignore"):
        expected = _llama_3_divisors(theta, head, factor)
    if not (math.isfinite(factor) and np.allclose(divisors, expected, rtol=_ROUNDING, atol=0)):
        raise DataError(
            f"'{path}' has other divisors in {_DIVISORS} than Llama 3 with a factor of {factor:g}, which transformers "
            "has no setting for; give the directory of the model that it was made of"
        )
    return scaled


def _llama_3_divisors(theta: float, head: int, factor: float) -> NDArray[np.float64]:
    """What transformers' rope type llama3 divides each frequency by."""
    low, high = _LLAMA_3["low_freq_factor"], _LLAMA_3["high_freq_factor"]
    turns = _LLAMA_3["original_max_position_embeddings"] * theta ** (-np.arange(0, head, 2) / head) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
