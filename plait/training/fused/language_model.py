"""A Llama-like language model with an adapter, computed block by block without PEFT's and transformers' modules.

Unless `recognise` knows every module, PEFT computes the model. No token is padding; rows may be of several adapters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2

from plait.training.examples import IGNORED, Example
from plait.training.fused.attention import Angles, Heads, Place, Ragged, stretches, takes_ragged
from plait.training.fused.block import Block, Rows, Square, plain_layer, run_block
from plait.training.fused.kernels import SLICE_ELEMENTS_ON_GPU, token_losses
from plait.training.fused.thin import LowRankPair

Tensor = torch.Tensor
Pairs = Mapping[int, tuple[Tensor, Tensor]]
"""Pairs to use instead of the model's own, by `id` of the model's A, or R."""


# By the model's type those of a block, its attention, its MLP, and the norms.
_FAMILIES: Mapping[type[nn.Module], tuple[type[nn.Module], ...]] = {
    getattr(module, f"{prefix}ForCausalLM"): tuple(
        getattr(module, prefix + what) for what in ("DecoderLayer", "Attention", "MLP", "RMSNorm")
    )
    for module, prefix in ((modeling_llama, "Llama"), (modeling_mistral, "Mistral"), (modeling_qwen2, "Qwen2"))
}
_ROTATIONS = ("default", "linear", "llama3")  # those whose angles do not depend on the input's length


@dataclass(frozen=True)
class FusedLanguageModel:
    """The model's parts; `longest` is the sliding window, and the embedding may lie in the host's memory."""

    embedding: Tensor
    blocks: tuple[Block, ...]
    norm: Tensor
    norm_eps: float
    head: Tensor
    rotation: nn.Module
    longest: int | None
    embedding_on_host: bool

    def pairs_of(self, stacks: Mapping[int, Tensor]) -> Pairs:
        """The pairs of several adapters, of (adapters, *shape) of each parameter of the adapter, by its `id`."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for pair in (layer.pair for block in self.blocks for layer in block.linears):
            if pair is None:
                continue
            if isinstance(pair, Square):
                found[id(pair.R)] = pair.pair(stacks[id(pair.R)])
            else:
                found[id(pair.A)] = stacks[id(pair.A)], stacks[id(pair.B)]
        return found

    def token_losses(
        self,
        batch: Sequence[Example],
        *,
        adapters: int = 1,
        pairs: Pairs | None = None,
        recomputed: int = 0,
        slice_elements: int = SLICE_ELEMENTS_ON_GPU,
    ) -> tuple[Tensor, list[int]]:
        """Cross-entropy of every label token, in nats, in the order of the batch, and the number for each sequence.

        With several adapters the batch has the same number of sequences for each, grouped, and `pairs` are stacked. The
        first `recomputed` blocks are checkpointed; `slice_elements` logits exist at a time.
        """
        lengths = [len(example.tokens) for example in batch]
        tokens = np.concatenate([example.tokens for example in batch])
        # The target of each position: the label of the next one.
        targets = np.concatenate([np.append(example.labels[1:], IGNORED).astype(np.int64) for example in batch])
        counted = np.flatnonzero(targets != IGNORED)
        # Copied before the blocks: a copy after them would wait for all their kernels.
        wanted, positions = self._sent(targets[counted]), self._sent(counted)
        own = len(lengths) // adapters
        where, angles = self._places(lengths)
        rows = Rows(where, tuple(sum(lengths[first : first + own]) for first in range(0, len(lengths), own)), angles)
        x = self._embedded(tokens)
        for number, block in enumerate(self.blocks):
            chosen = [_chosen(layer.pair, pairs) for layer in block.linears]
            x = run_block(x, block, rows, chosen, recomputed=number < recomputed)
        losses = token_losses(
            x,
            self.norm,
            self.head,
            wanted,
            positions,
            eps=self.norm_eps,
            slice_elements=slice_elements,
        )
        bounds = np.searchsorted(counted, np.cumsum([0, *lengths]))
        return losses, [int(size) for size in np.diff(bounds)]

    def takes(self, batch: Sequence[Example]) -> bool:
        """Whether the sequences are short enough."""
        return self.longest is None or max(len(example.tokens) for example in batch) <= self.longest

    def _embedded(self, tokens: NDArray[np.int32]) -> Tensor:
        """(tokens, width), on the device; the embedding itself may lie in the host's memory."""
        table, device = self.embedding, self.norm.device
        if not self.embedding_on_host:
            return table.index_select(0, self._sent(tokens))
        pinned = device.type == "cuda"
        rows = torch.empty(len(tokens), table.shape[1], dtype=table.dtype, pin_memory=pinned)
        torch.index_select(table.detach(), 0, torch.from_numpy(tokens.astype(np.int64)), out=rows)
        return rows.to(device, non_blocking=pinned)

    def _places(self, lengths: Sequence[int]) -> tuple[tuple[Place, ...], Angles]:
        """Where the sequences lie, in as few places as the device computes at once, and the angles for that."""
        where, longest = stretches(lengths), max(lengths)
        if len(where) > 1 and takes_ragged(self.blocks[0].heads, self.norm):
            positions = np.concatenate([np.arange(length) for length in lengths])
            bounds = self._sent(np.cumsum([0, *lengths]), np.int32)
            return (Ragged(bounds, longest, len(positions)),), self._angles(self._sent(positions))
        return where, self._angles(torch.arange(longest, device=self.norm.device))

    def _sent(
        self, values: NDArray[np.int32] | NDArray[np.int64], dtype: type[np.int32 | np.int64] = np.int64
    ) -> Tensor:
        """Whole numbers on the device. CUDA's own copy waits for nothing if they lie in pinned memory."""
        tensor = torch.from_numpy(values.astype(dtype))
        pinned = self.norm.device.type == "cuda"
        return (tensor.pin_memory() if pinned else tensor).to(self.norm.device, non_blocking=pinned)

    def _angles(self, positions: Tensor) -> Angles:
        """Of (count,) positions."""
        # In the model's own type, as its own blocks get them: the base was trained with this rounding.
        angles = cast("tuple[Tensor, Tensor]", self.rotation(self.norm, positions[None]))
        if self.norm.device.type == "cpu":
            angles = (angles[0].float(), angles[1].float())  # the compiled kernels' type
        return Angles(angles[0][0].contiguous(), angles[1][0].contiguous())


def recognise(model: nn.Module) -> FusedLanguageModel | None:
    """The model in the form of this module, or None if PEFT's modules must compute it."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        # Its modules are the base's own, but the input is not.
        return None
    family = _FAMILIES.get(type(inner))
    # accelerate moves what it places over several cards from module to module.
    if family is None or len(set(getattr(inner, "hf_device_map", {}).values())) > 1:
        return None
    found: Any = inner
    decoder, config = found.model, found.config
    norm: Any = decoder.norm
    head, embedding = plain_layer(found.lm_head), decoder.embed_tokens
    if (
        type(embedding) is not nn.Embedding
        or head is None
        or head.pair is not None
        or head.bias is not None
        or not isinstance(head.weight, Tensor)
        or type(decoder.norm) is not family[-1]
        or config.hidden_act != "silu"
        or config.rope_parameters.get("rope_type") not in _ROTATIONS
    ):
        return None
    frozen = (embedding.weight, norm.weight, head.weight)
    if any(each.requires_grad or each.dtype != head.weight.dtype for each in frozen):
        return None
    known: list[Block] = []
    for layer in decoder.layers:
        block = _block(layer, family)
        if block is None or not _fits(block, decoder.rotary_emb, head.weight.dtype):
            return None
        known.append(block)
    return FusedLanguageModel(
        embedding=embedding.weight,
        blocks=tuple(known),
        norm=norm.weight,
        norm_eps=norm.variance_epsilon,
        head=head.weight,
        rotation=decoder.rotary_emb,
        longest=getattr(config, "sliding_window", None),
        embedding_on_host=embedding.weight.device.type == "cpu" and norm.weight.device.type != "cpu",
    )


def _block(layer: Any, family: tuple[type[nn.Module], ...]) -> Block | None:
    attention, mlp, norms = layer.self_attn, layer.mlp, (layer.input_layernorm, layer.post_attention_layernorm)
    if tuple(map(type, (layer, attention, mlp, *norms))) != (*family, family[-1]):
        return None
    linears = [
        plain_layer(linear)
        for linear in (
            attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            mlp.gate_proj, mlp.up_proj, mlp.down_proj,
        )
    ]  # fmt: skip
    plain = [linear for linear in linears if linear is not None]
    if len(plain) != len(linears) or attention.attention_dropout:
        return None
    width = attention.head_dim
    return Block(
        linears=tuple(plain),
        norms=(norms[0].weight, norms[1].weight),
        eps=(norms[0].variance_epsilon, norms[1].variance_epsilon),
        heads=Heads(plain[0].weight.shape[0] // width, plain[1].weight.shape[0] // width, width),
    )


def _fits(block: Block, rotation: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a block has one type throughout, and its heads are rotated in full."""
    turned = 2 * cast("Tensor", rotation.inv_freq).shape[0]
    tensors = (*block.norms, *(linear.weight for linear in block.linears))
    return turned == block.heads.width and all(tensor.dtype == dtype for tensor in tensors)


def _chosen(pair: LowRankPair | Square | None, pairs: Pairs | None) -> tuple[Tensor, Tensor] | None:
    if pair is None:
        return None
    if isinstance(pair, Square):
        return pair.pair(pair.R) if pairs is None else pairs[id(pair.R)]
    return (pair.A, pair.B) if pairs is None else pairs[id(pair.A)]
