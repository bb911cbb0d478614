"""One frozen base in memory, with one adapter slot that any number of clients use in turn.

Loading an adapter copies its values into the slot's parameters in place. A slot of another shape or method takes the
place of the one before; the base stays in memory (`bare_base`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from accelerate.hooks import remove_hook_from_module
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel

from plait.adapters import AdapterSpec, AdapterState, Layout, Task, parse_spec
from plait.adapters.methods import is_quantised
from plait.adapters.module_names import is_saved
from plait.errors import BaseMismatchError, ConfigError, MachineError
from plait.machine import keep_freed_memory
from plait.objective import objective_named
from plait.training.bare_base import BareBase
from plait.training.blueprint import (
    Blueprint,
    adapter_tensors,
    attach,
    design_from_spec,
    load_base,
    read_base_config,
)
from plait.training.device import Compute, budgets_of, has_memory_of_its_own
from plait.training.examples import Tokenizer
from plait.training.fused.packed import without_values
from plait.training.peft_configs import peft_config_of
from plait.training.step_memory import StepMemory
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.training.memory_plan import ModelSize, StepPlan, Training
    from plait.training.spreading import Placement

# Clients of several ranks alternate.
_BLUEPRINTS_KEPT = 8

# To find an adapter's tensors PEFT iterates over all modules several times: 30 ms with 30 blocks.
_BEHIND: WeakKeyDictionary[PeftModel, Mapping[str, torch.Tensor]] = WeakKeyDictionary()


class ResidentBase:
    """A base on a device, ready for adapters.

    Args:
        fingerprint: SHA-256 of the base, hex.
        seq_len: longest sequence that will be used (decides the attention kernel).
        adapter_in_float32: whether the adapter also computes in float32. plait's own trainer keeps float32 masters
            outside the model and does not need it; a trainer that steps on the model's parameters does.
        others: more devices, each of which gets the base too, to compute a part of every step (`models`).
    """

    def __init__(
        self,
        directory: Path,
        fingerprint: str,
        compute: Compute,
        *,
        seq_len: int,
        adapter_in_float32: bool = False,
        others: Sequence[Compute] = (),
    ) -> None:
        self.directory = directory
        self.fingerprint = bytes.fromhex(fingerprint)
        self.compute = compute
        self._seq_len = seq_len
        self._adapter_in_float32 = adapter_in_float32
        self._tokenizer: Tokenizer | None = None
        self._blueprints: dict[str, Blueprint] = {}
        self._bare: BareBase | None = None
        self._model: PeftModel | None = None
        self._carried: tuple[bytes, Placement | None] = (b"", None)
        self.step_memory = StepMemory()
        """What steps on this base have given up to fit into memory."""
        self.memory_limit_bytes = 0
        """Most memory that a training step may take; 0 for what the device has."""
        self._planned: tuple[object, ...] = ()
        self._embedding_on_host = b""  # the slot that was planned so
        self._placements: dict[tuple[bytes, Training], Placement | None] = {}
        self._others = tuple(
            ResidentBase(directory, fingerprint, other, seq_len=seq_len, adapter_in_float32=adapter_in_float32)
            for other in others
        )

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that it computes on; one may be there several times."""
        return tuple(base.compute.device for base in (self, *self._others))

    @property
    def budgets(self) -> tuple[int, ...]:
        """Memory in bytes that may be used of each device; 0 where it is unknown."""
        return budgets_of(self.devices, self.memory_limit_bytes)

    def placement(self, spec: AdapterSpec, settings: Settings | None = None) -> Placement | None:
        """Where the blocks lie if no device holds the whole base with this adapter, but all together do.

        None if each device holds it, if not even all do, or if memory is not predicted for them.

        Args:
            settings: of its training; None for that of a run with the defaults.
        """
        if not self._others:
            return None
        from plait.training.memory_plan import Training

        training = Training() if settings is None else Training.of(settings, devices=len(self.devices))
        wanted = slot_digest(spec), training
        if wanted not in self._placements:
            self._placements[wanted] = self._placed(spec, training)
        return self._placements[wanted]

    def _placed(self, spec: AdapterSpec, training: Training) -> Placement | None:
        config = read_base_config(self.directory, spec.task, spec.labels)
        size = None
        if spec.task is Task.CAUSAL_LM and not _has_tables(spec):
            size = self._size(config, spec, training, self._seq_len)
        if size is None or not all(self.budgets):
            return None
        from plait.training.memory_plan import over_one_sequence
        from plait.training.spreading import spreading

        if (spread := spreading()) is None:
            return None
        host = all(map(has_memory_of_its_own, self.devices))
        how = partial(spread.place, seq_len=self._seq_len, budgets=self.budgets, host_has_room=host)
        return how(size, self.devices) or how(over_one_sequence(size), self.devices)

    @property
    def identity(self) -> tuple[bytes, ...]:
        """What determines its results."""
        devices = ",".join(map(str, self.devices))
        how = (devices, self.compute.dtype_name, self._seq_len, self._adapter_in_float32)
        return self.fingerprint, repr(how).encode()

    @property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer, loaded at first use."""
        if self._tokenizer is None:
            try:
                self._tokenizer = cast(
                    "Tokenizer",
                    AutoTokenizer.from_pretrained(self.directory, local_files_only=True, trust_remote_code=False),
                )
            except (OSError, ValueError) as error:
                raise ConfigError(f"base '{self.directory}' has no tokenizer that transformers can load") from error
        return self._tokenizer

    @property
    def pad_token(self) -> int:
        """Token id that pads short rows; masked everywhere, so any id works."""
        tokenizer = self.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def prepare(self, spec_text: str) -> Blueprint:
        """Spec and initial adapter, derived from what a server sent; computed once per spec.

        Raises:
            PeerError: it is not a spec.
            ConfigError: it does not fit this base.
        """
        if spec_text not in self._blueprints:
            request = parse_spec(spec_text)
            if is_quantised(request.method):
                from plait.training.holding import holding

                holding().check(self.compute.device.type)
            config = read_base_config(self.directory, request.task, request.labels)
            while len(self._blueprints) >= _BLUEPRINTS_KEPT:
                del self._blueprints[next(iter(self._blueprints))]
            self._blueprints[spec_text] = design_from_spec(config, request, weights=self.directory)
        return self._blueprints[spec_text]

    def adopt(self, other: ResidentBase) -> None:
        """Take over the base that another one holds in memory, if it is the same base on the same device.

        The other one reads it again if it is used again.
        """
        for mine, theirs in zip(self._others, other._others, strict=False):
            mine.adopt(theirs)
        same = (self.fingerprint, self.compute) == (other.fingerprint, other.compute)
        if other is self or not same or self._bare is not None or other._bare is None:
            return
        bare, adapted = other._bare, other._model
        other._drop()
        if (adapted is None or bare.take_off(adapted)) and bare.attend_by(self.compute.attention(self._seq_len)):
            self._bare = bare

    def carrying(self, spec: AdapterSpec, state: AdapterState) -> PeftModel:
        """The model with `state` in its adapter slot; valid until the next call."""
        return self._carrying(spec, state, self.placement(spec))

    def _carrying(self, spec: AdapterSpec, state: AdapterState, placement: Placement | None) -> PeftModel:
        slot = slot_digest(spec)
        if self._model is None or self._carried != (slot, placement):
            model = self._attached(spec, placement)
            shapes = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model).items()}
            if Layout.of(shapes).digest != spec.layout.digest:
                self._drop()
                raise BaseMismatchError(
                    f"the adapter's {len(spec.layout.slots)} tensors are not the {len(shapes)} "
                    f"that its configuration makes on base '{self.directory.name}'"
                )
            self._model, self._carried = model, (slot, placement)
        if self._bare is not None:
            self._bare.keep_embedding(on_host=slot == self._embedding_on_host)
        load_adapter(self._model, state)
        return self._model

    def models(self, spec: AdapterSpec, state: AdapterState, settings: Settings | None = None) -> list[PeftModel]:
        """What `carrying` gives, on every device, in order; one model if that is placed over all of them."""
        placement = self.placement(spec, settings)
        others = () if placement else self._others
        return [self._carrying(spec, state, placement), *(base.carrying(spec, state) for base in others)]

    def plan_steps(self, spec: AdapterSpec, settings: Settings, *, together: int = 1) -> None:
        """Decide what training steps give up, before the first one, where memory can be predicted.

        Raises:
            MachineError: not even one sequence will fit, or not all side by side; the message says what would.
        """
        budgets = self.budgets
        if not all(budgets) or spec.task is not Task.CAUSAL_LM:
            return
        from plait.training.memory_plan import Training, over_one_sequence, plan_step, what_would_fit

        placement = self.placement(spec, settings)
        replicas = 1 if placement else len(self.devices)
        training = Training.of(settings, together=together, devices=replicas)
        own = -(-settings.batch_size * settings.gradient_accumulation_steps // replicas)
        objective = objective_named(settings.objective)
        examples = 1 if objective.completions else min(settings.batch_size, own) * together
        batch = max(examples * objective.sequences, training.whole)
        wanted = (spec.digest, batch, settings.seq_len, training)
        if wanted == self._planned:
            return
        self._planned = wanted
        for base in (self, *self._others):
            base._embedding_on_host = b""
        config = read_base_config(self.directory, spec.task, spec.labels)
        size = self._size(config, spec, training, settings.seq_len)
        if size is None:
            return
        host = all(map(has_memory_of_its_own, self.devices)) and not placement

        def planned(size: ModelSize, batch: int) -> StepPlan:
            if placement:
                return placement.plan(size, batch=batch, seq_len=settings.seq_len, budgets=budgets)
            return plan_step(size, batch=batch, seq_len=settings.seq_len, budgets=budgets, host_has_room=host)

        plan = least = planned(size, batch)
        if not plan.fits and together == 1:
            # What cannot be cut is tried: its sequences may be shorter. Fewer side by side take the place of many.
            size = over_one_sequence(size)
            least = planned(size, 1)
        if short := self._short_of(least, placement):
            self._planned = ()  # the next attempt is refused too
            has = [min(budgets)] if placement else budgets
            raise MachineError(
                f"a step over {settings.seq_len} tokens a sequence needs {short}; what would fit: "
                + what_would_fit(size, seq_len=settings.seq_len, budgets=has, host_has_room=host)
            )
        for base in (self, *self._others):
            base._embedding_on_host = slot_digest(spec) if plan.embedding_on_host else b""
        self.step_memory.begin_with(recomputed=plan.recomputed, cuts=plan.cuts, slice_elements=plan.slice_elements)

    def _short_of(self, plan: StepPlan, placement: Placement | None) -> str:
        """What of a device a plan needs that it may not take, as a part of a sentence; empty if nothing."""
        from plait.training.memory_plan import PREDICTION_ERROR

        first, *others = budgets = self.budgets
        needs = [(self.devices[0], plan.peak_bytes, first)]
        if placement:
            needs = [(self.devices[0], plan.peak_bytes, min(budgets))]
        elif others:
            least = min(others)
            needs.append((self.devices[1 + others.index(least)], plan.replica_bytes, least))
        for device, needed, budget in needs:
            if not plan.fits if placement else needed > budget * (1 + PREDICTION_ERROR):
                return f"{needed / 1e9:.1f} GB of {device} and may take {budget / 1e9:.1f} GB"
        return ""

    def _size(self, config: PretrainedConfig, spec: AdapterSpec, training: Training, seq_len: int) -> ModelSize | None:
        from plait.training.memory_plan import size_of

        return size_of(
            config,
            spec,
            value_bytes=self.compute.dtype.itemsize,
            on_cpu=self.compute.device.type == "cpu",
            in_eight=self.compute.eight_bits,
            directory=self.directory,
            seq_len=seq_len,
            training=training,
        )

    def _attached(self, spec: AdapterSpec, placement: Placement | None) -> PeftModel:
        """The base with a new slot for this adapter."""
        bare, adapted = self._bare, self._model
        self._drop()  # until the new slot is on, or for good if the base is not what it was
        loaded_as = self._loaded_as(spec, placement)
        if bare is not None and (bare.loaded_as != loaded_as or (adapted and not bare.take_off(adapted))):
            bare = adapted = None  # its memory is free before the base is read again
        if bare is None:
            model = self._load(spec, placement)
            bare = BareBase(model, loaded_as)
        bare.keep_embedding(on_host=False)  # new slots lie where the layers lie that they change
        with without_values():
            model = attach(bare.model, peft_config_of(spec.peft_config), in_float32=self._adapter_in_float32)
        if bare.model.dtype != self.compute.dtype:
            model.to(self.compute.dtype)  # pyright: ignore[reportUnknownMemberType]
        self._bare = bare
        return model

    def _loaded_as(self, spec: AdapterSpec, placement: Placement | None) -> tuple[object, ...]:
        """What of an adapter decides how its base is loaded."""
        bits = 4 if is_quantised(spec.method) else 8 * self.compute.eight_bits
        how = (spec.task, spec.labels, bits, self._dtype(spec), bits > 0 and _has_tables(spec))
        return (*how, placement)

    def _dtype(self, spec: AdapterSpec) -> torch.dtype:
        # Fixed factors that PEFT derives from the weights equal plain PEFT's only if the weights are not rounded.
        return torch.float32 if spec.peft_config.get("peft_type") == "PSOFT" else self.compute.dtype

    def _drop(self) -> None:
        self._bare, self._model, self._carried = None, None, (b"", None)

    def _load(self, spec: AdapterSpec, placement: Placement | None) -> PreTrainedModel:
        model = self._read(spec, placement)
        if spec.task is Task.CLASSIFICATION:
            from plait.training.heads import silence

            silence(model)
        return model

    def _read_in_few_bits(
        self, spec: AdapterSpec, config: PretrainedConfig, heads: Sequence[str], *, in_eight: bool
    ) -> PreTrainedModel:
        from plait.training.holding import holding

        keep_freed_memory()
        return holding().read(
            self.directory,
            config,
            task=spec.task,
            compute=self.compute,
            attention=self.compute.attention(self._seq_len),
            whole=heads,
            whole_tables=_has_tables(spec),
            in_eight=in_eight,
        )

    def _read(self, spec: AdapterSpec, placement: Placement | None) -> PreTrainedModel:
        heads = spec.saved_modules if spec.task is Task.CLASSIFICATION else ()
        config = read_base_config(self.directory, spec.task, spec.labels)
        if spec.task is Task.CLASSIFICATION and config.pad_token_id is None:
            config.pad_token_id = self.pad_token
        in_eight = self.compute.eight_bits and not is_quantised(spec.method)
        if in_eight or (is_quantised(spec.method) and self.compute.device.type == "cpu"):
            return self._read_in_few_bits(spec, config, heads, in_eight=in_eight)
        quantised = {}
        if is_quantised(spec.method):
            from plait.training.holding import holding

            quantised = holding().arguments(self.compute, whole=heads)
        # Straight to the device: main memory never holds a second copy, and on a Jetson both are the same memory.
        placed = {} if quantised or self.compute.device.type == "cpu" else {"device_map": {"": self.compute.device}}
        if placement and any(device.type != "cpu" for device in placement.devices):
            placed = {"device_map": placement.by_module}
        try:
            model = load_base(
                self.directory,
                config,
                spec.task,
                saved=spec.saved_modules,
                dtype=self._dtype(spec),
                attn_implementation=self.compute.attention(self._seq_len),
                **(quantised | placed),
            )
            if placement:
                # `fused` moves activations itself, and takes no modules with accelerate's hooks.
                remove_hook_from_module(model, recurse=True)
                placement.move_between(model)
            if self.compute.device.type == "cpu":
                keep_freed_memory()
            if quantised:
                # bitsandbytes has already placed it.
                from plait.training.holding import holding

                holding().loaded(model)
            if quantised or placement:
                return model
            return model.to(self.compute.device)  # pyright: ignore[reportArgumentType]
        except (torch.OutOfMemoryError, MemoryError) as error:
            over = ""
            if self._others:
                over = (
                    "; blocks are placed over several devices where plait computes them itself: lora and qlora without "
                    "dropout, on the linear layers of a base like Llama"
                )
            raise MachineError(
                f"base '{self.directory.name}' does not fit into the memory of {self.compute.device}{over}"
            ) from error


def _has_tables(spec: AdapterSpec) -> bool:
    """Whether the adapter has a part outside the blocks that is no head of classes: on an embedding or the output."""
    heads = spec.saved_modules if spec.task is Task.CLASSIFICATION else ()
    names = [slot.name for slot in spec.layout.slots if not is_saved(slot.name, heads)]
    return any(not any(part.isdigit() for part in name.split(".")) for name in names)


def slot_digest(spec: AdapterSpec) -> bytes:
    """The digest of what a model with this adapter's slot follows from: all of the spec but the seed of its values."""
    return replace(spec, init_seed=0, init_rank=0).digest


def load_adapter(model: PeftModel, state: AdapterState) -> None:
    """Copy an adapter's values into the model, in place."""
    tensors = _behind(model)
    with torch.no_grad():
        for name, values in state.items():
            tensors[name].copy_(torch.from_numpy(values.copy()))  # torch cannot wrap a read-only buffer


def read_adapter(model: PeftModel, like: AdapterState) -> AdapterState:
    """The adapter's values out of the model, float32, in the layout of `like`."""
    tensors = _behind(model)
    flat = np.empty(like.layout.size, np.float32)
    for slot in like.layout.slots:
        flat[slot.offset : slot.offset + slot.size] = tensors[slot.name].detach().float().cpu().numpy().reshape(-1)
    return AdapterState(like.layout, flat)


def adapter_parameters(model: PeftModel, layout: Layout) -> list[nn.Parameter]:
    """The parameters of an adapter's tensors, in layout order.

    Raises:
        ConfigError: a tensor of the adapter is not a parameter of the model, so it cannot be trained in place.
    """
    tensors = _behind(model)
    found = [tensors[slot.name] for slot in layout.slots]
    parameters = [tensor for tensor in found if isinstance(tensor, nn.Parameter)]
    if len(parameters) < len(found):
        raise ConfigError("this adapter method has tensors that are not trainable parameters of the model")
    return parameters


def _behind(model: PeftModel) -> Mapping[str, torch.Tensor]:
    """The model's values of the adapter's tensors, by name; parameters are looked up once per model."""
    if model not in _BEHIND:
        by_address = {parameter.data_ptr(): parameter for parameter in model.parameters() if parameter.requires_grad}
        tensors = {name: by_address.get(x.data_ptr(), x) for name, x in adapter_tensors(model).items()}
        if not all(isinstance(tensor, nn.Parameter) for tensor in tensors.values()):
            return tensors
        _BEHIND[model] = tensors
    return _BEHIND[model]
