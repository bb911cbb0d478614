"""A step of plait's own trainer over tensors without values: what it costs on a CUDA GPU, on a machine that has none.

The trainer's real code runs on torch's meta device, from a base's config alone. Every operation is recorded: its
kernels, the bytes that it reads and writes, and the memory that is alive after it. What is assumed:

- Memory is counted as torch's allocator rounds it, in multiples of 512 bytes. The allocator's cache and fragments (5 to
  10 per cent) and CUDA's context (0.3 to 0.6 GB) come on top.
- An operation is one kernel, except as `_LAUNCHES` says and for operations on many tensors. Views are none, and neither
  is memory that is only allocated.
- RMSNorm is one kernel forward and one back, as torch has them on CUDA.
- Attention is FlashAttention's (torch's on Ampere and newer), its float32 sum of query gradients included; where
  completions are sampled, another that takes a mask, one kernel too.
- Four bits are bitsandbytes' NF4 with double quantisation: per weight half a byte, per 64 weights one byte, per 16,384
  a float32; `_TABLE_BYTES` for the two tables of each layer. Unpacking a layer takes three kernels, its scales in
  float32, and its values in the type of the products.

Knows nothing of speed, which follows from the operations (`roofline`).
"""

from __future__ import annotations

import copy
import gc
import importlib
import math
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.backends import cuda
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.features.objectives.rewarded import rewarded
from plait.rounds.local_model import NOTHING, Carried
from plait.training import losses
from plait.training.bases import locate_config, quiet_libraries
from plait.training.blueprint import Blueprint, attach, design
from plait.training.cohort import train_cohort
from plait.training.examples import IGNORED, Example, Tokenizer
from plait.training.fused import language_model, peft_layer
from plait.training.fused.packed import Packed
from plait.training.learner import TrainingInputs
from plait.training.peft_configs import peft_config_of
from plait.training.replicas import Replica
from plait.training.resident import adapter_parameters, load_adapter
from plait.training.step_memory import StepMemory
from plait.training.trainer import train_steps
from plait.wire.settings import Settings
from simulations.bench.roofline import Operation

Tensor = torch.Tensor

_ALLOCATED = 512  # the CUDA allocator's unit, in bytes
_BLOCK, _OUTER_BLOCK = 64, 256  # weights of a scale, scales of a scale
_TABLE_BYTES = 4 * (16 + 256 + 1)
_META = torch.device("meta")
_NO_KERNEL = (
    "view _unsafe_view t transpose expand slice select unsqueeze squeeze permute as_strided detach alias split "
    "split_with_sizes unbind lift_fresh narrow _reshape_alias unfold diagonal empty empty_like new_empty empty_strided "
    "new_empty_strided resize_ set_ chunk"
)
_VIEWS = frozenset(_NO_KERNEL.split())
_CHUNK_ELEMENTS, _CHUNK_TENSORS = 320 * 65536, 30  # of one launch over many tensors
_LAUNCHES = {"_scaled_dot_product_flash_attention_backward": 3, "_varlen_attn": 2, "_varlen_attn_backward": 3}
_ATTENTION_BACKWARD = ("_scaled_dot_product_flash_attention_backward", "_varlen_attn_backward")
_SUMS_OF_GROUPS = 2  # of the gradients of keys and of values, after either of these backward passes


@cache
def _config(base: str, layers: int) -> PretrainedConfig:
    found = AutoConfig.from_pretrained(str(locate_config(base)), trust_remote_code=False)
    found.num_hidden_layers = layers or found.num_hidden_layers
    return found


@cache
def _blueprint(base: str, layers: int, method: str, rank: int) -> Blueprint:
    request = AdapterRequest(method=method, rank=rank, alpha=2 * rank)
    return design(_config(base, layers), request, task=Task.CAUSAL_LM, seed=1)


@dataclass(frozen=True)
class StepShape:
    """A base and the batch of one step.

    Attributes:
        base: name of a known base; only its config is used.
        four_bits: whether its blocks' linear layers are in NF4; else in bfloat16.
        rank: of LoRA on all linear layers.
        layers: blocks, if not as many as the base has.
        fused: whether plait's own implementation may compute it; else PEFT's modules do.
        embedding_on_host: whether its input embedding lies in the host's memory.
        chats: whether each sequence has another length, in even steps up to `seq_len`; else all have this.
        together: adapters that train side by side, each on a batch of its own.
    """

    base: str
    batch: int
    seq_len: int
    four_bits: bool = False
    rank: int = 16
    layers: int = 0
    fused: bool = True
    embedding_on_host: bool = False
    chats: bool = False
    together: int = 1

    def __str__(self) -> str:
        batch = f"{self.batch} chats to {self.seq_len}" if self.chats else f"{self.batch}x{self.seq_len}"
        beside = f", {self.together} adapters" if self.together > 1 else ""
        return f"{self.base} {'nf4' if self.four_bits else 'bf16'} {batch}{beside}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the sequences, in tokens."""
        steps = range(1, self.batch + 1) if self.chats else [self.batch] * self.batch
        return tuple(self.seq_len * step // self.batch for step in steps)

    def config(self) -> PretrainedConfig:
        """Of the base."""
        return copy.deepcopy(_config(self.base, self.layers))

    def blueprint(self) -> Blueprint:
        """Of the adapter."""
        return _blueprint(self.base, self.layers, "qlora" if self.four_bits else "lora", self.rank)


@dataclass
class StepCosts:
    """What one step costs.

    Attributes:
        resident_bytes: memory of base, adapter and optimizer before the step.
        peak_bytes: most memory during it.
        operations: all that launch a kernel, in order.
        to_device: copies from the host during the step.
        waits: times that the host waits for the device during the step.
        inside: copies and waits between the first block and the losses.
    """

    resident_bytes: int = 0
    peak_bytes: int = 0
    operations: list[Operation] = field(default_factory=list[Operation])
    to_device: int = 0
    waits: int = 0
    inside: int = 0

    @property
    def launches(self) -> int:
        """Kernels of the step."""
        return sum(each.launches for each in self.operations)

    @property
    def moved_bytes(self) -> float:
        """Read and written by all kernels."""
        return sum(each.moved_bytes for each in self.operations)


def settings_of(shape: StepShape, **changed: Any) -> Settings:
    """Of one optimizer step, with some of them changed."""
    settings = Settings(
        local_steps=1, batch_size=shape.batch, gradient_accumulation_steps=1, seq_len=shape.seq_len, learning_rate=1e-4,
        weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1, seed=0,
    )  # fmt: skip
    return replace(settings, **changed)


def dry_step(
    shape: StepShape,
    memory: StepMemory | None = None,
    *,
    settings: Settings | None = None,
    carried: Carried = NOTHING,
    replicas: int = 0,
) -> StepCosts:
    """Run a step, or as many as the settings say, and count.

    Args:
        shape: what is trained.
        memory: what the step gives up for memory; nothing by default.
        settings: of the training; those of one step by default. With a reward the last of `max_completion_tokens` of
            each sequence are sampled.
        carried: from earlier rounds.
        replicas: of the base besides the first, whose memory is counted with the first one's.
    """
    quiet_libraries()
    config, made = shape.config(), shape.blueprint()
    settings = settings or settings_of(shape)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape.seq_len).astype(np.int32)
    examples = [Example(tokens[:length], tokens[:length].copy()) for length in shape.lengths]
    with _pretending() as recorder:
        model = _model(shape, config, made)
        if not shape.fused:
            recorder.also(mock.patch.object(losses, "recognise", return_value=None))
        parameters = adapter_parameters(model, made.spec.layout)
        beside = [_model(shape, config, made) for _ in range(replicas)]
        others = [Replica(each, adapter_parameters(each, made.spec.layout)) for each in beside]
        load_adapter(model, made.initial)
        gc.collect()
        recorder.lengths = shape.lengths
        recorder.begin()
        if shape.together > 1:
            inputs = [TrainingInputs(examples, settings, made.initial.flat, carried)] * shape.together
            train_cohort(model, parameters, inputs, task=Task.CAUSAL_LM, memory=memory)
            return recorder.costs
        if settings.objective.startswith("grpo"):
            examples = [_asked(each, settings, number) for number, each in enumerate(examples)]
            recorder.also(mock.patch.object(functional, "scaled_dot_product_attention", _masked_attention))
        train_steps(
            model,
            parameters,
            TrainingInputs(examples, settings, made.initial.flat, carried),
            task=Task.CAUSAL_LM,
            pad_token=0,
            memory=memory,
            others=others,
            tokenizer=cast("Tokenizer", SimpleNamespace(eos_token_id=None, pad_token_id=0, decode=_wordless)),
        )
        return recorder.costs


def _wordless(_tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
    return "" if skip_special_tokens else " "


def _asked(example: Example, settings: Settings, number: int) -> Example:
    """A prompt of its own, with an answer of one token behind it."""
    most = rewarded(settings.objective).max_completion_tokens
    tokens = example.tokens[: len(example.tokens) - most + 1].copy()
    tokens[0] = number
    return Example.of_sides(Example(tokens, np.where(np.arange(len(tokens)) < len(tokens) - 1, IGNORED, tokens)), None)


def _model(shape: StepShape, config: PretrainedConfig, made: Blueprint) -> PeftModel:
    with _META:
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=torch.bfloat16, attn_implementation="sdpa", trust_remote_code=False
        )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        if shape.four_bits:
            for name, module in list(model.named_modules()):
                if type(module) is nn.Linear and name != "lm_head":
                    parent, _, own = name.rpartition(".")
                    setattr(model.get_submodule(parent), own, _FourBits(module))
        if shape.embedding_on_host:
            rows = torch.zeros(1, 1, dtype=torch.bfloat16, device="cpu").expand(config.vocab_size, config.hidden_size)
            model.get_input_embeddings().weight = nn.Parameter(rows, requires_grad=False)
        found = attach(model, peft_config_of(made.spec.peft_config), in_float32=False)
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return found


class _FourBits(nn.Linear):
    """In the place of bitsandbytes' `Linear4bit`."""

    def __init__(self, whole: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        count = whole.weight.numel()
        self.weight = nn.Parameter(torch.empty(count // 2, 1, dtype=torch.uint8), requires_grad=False)
        scales = count // _BLOCK
        self.register_buffer("scales", torch.empty(scales + 4 * -(-scales // _OUTER_BLOCK), dtype=torch.uint8))
        self.register_buffer("tables", torch.empty(_TABLE_BYTES, dtype=torch.uint8))
        self.bias = whole.bias


@dataclass(frozen=True)
class _Shape:
    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True)
class _DryPacked(Packed):
    recorder: _Recorder

    def unpacked(self) -> Tensor:
        rows, columns = self.shape
        scales = torch.empty(rows * columns // _BLOCK, dtype=torch.float32, device=_META)
        values = torch.empty(rows, columns, dtype=self.dtype, device=_META)
        read = self.values.numel() + rows * columns // _BLOCK
        self.recorder.note(Operation("dequantize_4bit", 3, 0, read + 4 * _bytes(scales) + _bytes(values)))
        return values


class _Recorder(TorchDispatchMode):
    """Runs every operation without values and counts it."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.costs = StepCosts()
        self.lengths: tuple[int, ...] = ()
        self._stack = stack
        self._live = 0
        self._sizes: dict[int, int] = {}
        self._counting = self._inside = False

    def also(self, patch: Any) -> None:
        """Keep another patch as long as this runs."""
        self._stack.enter_context(patch)

    def begin(self) -> None:
        """Count from now on."""
        self.costs = StepCosts(resident_bytes=self._live, peak_bytes=self._live)
        self._counting = True

    def between(self, inside: bool) -> None:
        """Whether the blocks or their losses are being computed."""
        self._inside = inside

    def note(self, operation: Operation) -> None:
        """Count an operation."""
        if self._counting:
            self.costs.operations.append(operation)

    def rms_norm(self, x: Tensor, _shape: Sequence[int], weight: Tensor, _eps: float) -> Tensor:
        """In the place of torch's, which has one kernel for it on CUDA only."""
        return cast("Tensor", _FusedNorm.apply(x, weight, self))

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        name = cast("str", function._schema.name).partition("::")[2]
        given = _tensors((args, kwargs))
        on_device = any(x.device.type == "meta" for x in given)
        if name == "_local_scalar_dense" and on_device:
            self._wait()
            return 1.0
        if name == "_to_copy" and on_device and torch.device((kwargs or {}).get("device") or "meta").type == "cpu":
            self._wait()
            return torch.zeros(args[0].shape, dtype=(kwargs or {}).get("dtype") or args[0].dtype)
        if name == "equal" and on_device:
            self._wait()
            return True
        if name == "nonzero":
            raise NotImplementedError("nonzero on a GPU waits for it, and its size is not known without values")
        out = function(*args, **(kwargs or {}))
        made = _tensors(out)
        for tensor in made:
            self._follow(tensor)
        if not any(x.device.type == "meta" for x in made) and not on_device:
            return out
        if any(x.device.type == "cpu" and x.dim() for x in given):
            self._copied()
        if name in _ATTENTION_BACKWARD:
            # Its float32 sum of the query gradients, and the gradients of keys and values before groups are added up.
            *_, heads, rows, width = args[1].shape if args[1].ndim == 4 else args[1].transpose(0, 1).shape
            sequences = args[1].shape[0] if args[1].ndim == 4 else len(args[6])
            rows = sequences * (-(-rows // 128) * 128) if args[1].ndim == 4 else rows + 128 * sequences
            groups = 2 * 2 * (args[2].numel() < args[1].numel())
            self._peak(heads * rows * width * (4 + groups))
        if name not in _VIEWS:
            tensors = max(map(len, (x for x in args if isinstance(x, list))), default=1)
            elements = sum(x.numel() for x in given) // max(1, len(given) // max(1, tensors))
            many = "foreach" in name or name.startswith("_fused_adam")
            launches = max(-(-tensors // _CHUNK_TENSORS), -(-elements // _CHUNK_ELEMENTS)) if many else 1
            # A product that adds to what is there is the same product.
            product = getattr(torch.ops.aten, name.removesuffix("_"), function.overloadpacket)
            counted = flop_registry.get(product)
            flops = counted(*args, **(kwargs or {}), out_val=out) if counted else 0
            if "varlen" in name:  # whose formula takes all sequences for as long as the longest
                flops *= sum(each**2 for each in self.lengths) / (len(self.lengths) * max(self.lengths) ** 2)
            wide = bool(made) and made[0].dtype == torch.float32
            # Of what is scattered into, nothing moves but the places.
            moved = sum(map(_bytes, given[1:] if name == "scatter_" else (*given, *made)))
            launches = _LAUNCHES.get(name, launches)
            if name in _ATTENTION_BACKWARD and args[2].numel() < args[1].numel():
                launches += _SUMS_OF_GROUPS
            self.note(Operation(name, launches, flops, moved, wide))
        return out

    def _wait(self) -> None:
        self.costs.waits += self._counting
        self.costs.inside += self._counting and self._inside

    def _copied(self) -> None:
        self.costs.to_device += self._counting
        self.costs.inside += self._counting and self._inside

    def _follow(self, tensor: Tensor) -> None:
        if tensor.device.type != "meta":
            return
        storage, key = tensor.untyped_storage(), _address(tensor)
        if key in self._sizes:
            return
        size = math.ceil(storage.nbytes() / _ALLOCATED) * _ALLOCATED
        self._sizes[key] = size
        self._live += size
        self._peak(0)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._live -= self._sizes.pop(key)

    def _peak(self, more: int) -> None:
        self.costs.peak_bytes = max(self.costs.peak_bytes, self._live + more)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, recorder: _Recorder) -> Tensor:
        out = torch.empty_like(x)
        scales = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=_META)
        recorder.note(Operation("_fused_rms_norm", 1, 0, _bytes(x) + _bytes(out)))
        ctx.save_for_backward(x, weight, scales)
        ctx.recorder = recorder
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        found = torch.empty_like(grad_outputs[0])
        ctx.recorder.note(Operation("_fused_rms_norm_backward", 1, 0, 3 * _bytes(found)))
        return found, None, None


@contextmanager
def _pretending() -> Generator[_Recorder]:
    """What is asked of a device, answered for one without values."""
    with ExitStack() as stack:
        recorder = _Recorder(stack)

        def packed_weight(module: nn.Module) -> Packed | None:
            if not isinstance(module, _FourBits):
                return None
            shape = torch.Size((module.out_features, module.in_features))
            return _DryPacked(module.weight.data, _Shape(shape, torch.bfloat16), torch.bfloat16, recorder)

        run_block, token_losses = language_model.run_block, language_model.token_losses

        def marked_block(*args: Any, **kwargs: Any) -> Tensor:
            recorder.between(True)
            return run_block(*args, **kwargs)

        def marked_losses(*args: Any, **kwargs: Any) -> Tensor:
            try:
                return token_losses(*args, **kwargs)
            finally:
                recorder.between(False)

        optimizers = importlib.import_module("torch.optim.optimizer")
        patches: tuple[tuple[object, str, Callable[..., object]], ...] = (
            (peft_layer, "packed_weight", packed_weight),
            (language_model, "run_block", marked_block),
            (language_model, "token_losses", marked_losses),
            (functional, "scaled_dot_product_attention", _flash_attention),
            (functional, "rms_norm", recorder.rms_norm),
            # Not a Mock, which would keep the tensors of every call.
            (cuda, "can_use_flash_attention", _always),
            (torch.Tensor, "data_ptr", _address),
            (optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta"]),
        )
        for where, name, instead in patches:
            recorder.also(mock.patch.object(where, name, instead))
        stack.enter_context(recorder)
        yield recorder


def _always(_parameters: object) -> bool:
    return True


def _flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None or (k.shape[1] != q.shape[1] and not enable_gqa):
        raise NotImplementedError("FlashAttention takes no mask, and groups of heads only if told of them")
    found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)
    return found[0]


def _masked_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **how: Any) -> Tensor:
    if attn_mask is None:
        return _flash_attention(q, k, v, **how)
    return torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=_META)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _address(x: Tensor) -> int:
    return x.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _bytes(x: Tensor) -> int:
    """Of the different values of a tensor."""
    return x.element_size() * math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
