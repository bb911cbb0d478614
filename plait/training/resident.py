"""One frozen base in memory, with one adapter slot that any number of clients use in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout, parse_spec
from plait.adapters.methods import is_quantised
from plait.errors import ConfigError, MachineError
from plait.system.machine import keep_freed_memory
from plait.training.blueprint import AdapterTemplate, design_from_spec, load_base, read_base_config, silence
from plait.training.device import Compute, check_four_bits, memory_for_steps
from plait.training.examples import Tokenizer
from plait.training.losses import StepMemory
from plait.training.peft_adapter import adapter_tensors, attach, check_layout, peft_config_of
from plait.wire.settings import Settings


class BareBase:
    """A loaded base, with an adapter on while one is; two that were `loaded_as` equals are the same base."""

    def __init__(self, model: PreTrainedModel, loaded_as: tuple[object, ...]) -> None:
        self.model, self.loaded_as = model, loaded_as
        embedding = model.get_input_embeddings()
        names = [name for name, module in model.named_modules() if module is embedding]
        self._embedding = names[0] if type(embedding) is nn.Embedding and names else ""
        if self._embedding:
            device = self._home = cast("nn.Embedding", embedding).weight.device
            # For models that PEFT's modules compute; `fused` looks rows up itself.
            embedding.register_forward_pre_hook(lambda table, ids: (ids[0].to(table.weight.device), *ids[1:]))
            embedding.register_forward_hook(lambda _module, _given, rows: rows.to(device))
        self._modules, self._tensors = _modules(model), _tensors(model)
        self._attributes = frozenset(vars(model))

    def keep_embedding(self, *, on_host: bool) -> None:
        """Move the input embedding to the host or back, only where nothing else uses its weight."""
        if not self._embedding:
            return
        weight = cast("nn.Embedding", self.model.get_submodule(self._embedding)).weight
        where = torch.device("cpu") if on_host else self._home
        if weight.device != where:
            weight.data = weight.data.to(where)
            self._tensors[f"{self._embedding}.weight"] = _state(weight)

    def take_off(self, adapted: PeftModel) -> bool:
        """Take the adapter off; whether the base is then what was loaded, to the last module and value."""
        tuner = adapted.base_model
        # PEFT would leave its copies of what an adapter replaces, such as a classifier's head.
        for name, module in [*self.model.named_modules()]:
            if isinstance(module, ModulesToSaveWrapper):
                self.model.set_submodule(name, module.original_module)
        if isinstance(tuner, BaseTuner):
            try:
                tuner.unload()
            except (AttributeError, NotImplementedError, TypeError, ValueError):
                return False
        for name in vars(self.model).keys() - self._attributes:
            delattr(self.model, name)
        return (_modules(self.model), _tensors(self.model)) == (self._modules, self._tensors)

    def attend_by(self, implementation: str) -> bool:
        """Compute attention in this way from now on; False if the base cannot change it."""
        self.model.set_attn_implementation(implementation)
        return self.model.config._attn_implementation == implementation  # pyright: ignore[reportPrivateUsage]


def _modules(model: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in model.named_modules()]


def _tensors(model: nn.Module) -> dict[str, tuple[object, ...]]:
    return {name: _state(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _state(tensor: torch.Tensor) -> tuple[object, ...]:
    """Which tensor it is, where its values lie, and how often they have changed."""
    return id(tensor), tensor.untyped_storage()._cdata, tensor.dtype, tensor._version  # pyright: ignore[reportPrivateUsage]


# Clients of several ranks alternate.
_TEMPLATES_KEPT = 8

# To find an adapter's tensors PEFT iterates over all modules several times: 30 ms with 30 blocks.
_BEHIND: WeakKeyDictionary[PeftModel, Mapping[str, torch.Tensor]] = WeakKeyDictionary()


class ResidentBase:
    """A base on a device, ready for adapters.

    The longest sequence, `seq_len`, decides the attention kernel. A trainer that steps on the model's own parameters
    needs `adapter_in_float32`. accelerate may place parts of the base on `others`, more cards.
    """

    def __init__(
        self,
        directory: Path,
        fingerprint: str,
        compute: Compute,
        *,
        seq_len: int,
        adapter_in_float32: bool = False,
        others: Sequence[torch.device] = (),
    ) -> None:
        self.directory = directory
        self.fingerprint = bytes.fromhex(fingerprint)
        self.compute = compute
        self._seq_len = seq_len
        self._adapter_in_float32 = adapter_in_float32
        self._templates: dict[str, AdapterTemplate] = {}
        self._bare: BareBase | None = None
        self._model: PeftModel | None = None
        self._carried = b""
        self.step_memory = StepMemory()
        """What steps on this base have given up to fit into memory."""
        self.memory_limit_bytes = 0
        """Most memory that a training step may take; 0 for what the device has."""
        self._planned: tuple[object, ...] = ()
        self._embedding_on_host = b""  # the slot that was planned so
        self.devices = (compute.device, *others)

    @property
    def identity(self) -> tuple[bytes, ...]:
        """What determines its results."""
        devices = ",".join(map(str, self.devices))
        how = (devices, self.compute.dtype_name, self._seq_len, self._adapter_in_float32)
        return self.fingerprint, repr(how).encode()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer, loaded at first use."""
        try:
            found = AutoTokenizer.from_pretrained(self.directory, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"base '{self.directory}' has no tokenizer that transformers can load") from error
        return cast("Tokenizer", found)

    @property
    def pad_token(self) -> int:
        """Token id that pads short rows; masked everywhere, so any id works."""
        tokenizer = self.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def prepare(self, spec_text: str) -> AdapterTemplate:
        """Spec and initial adapter, derived from what a server sent; computed once per spec."""
        if spec_text not in self._templates:
            request = parse_spec(spec_text)
            if is_quantised(request.method):
                check_four_bits(self.compute.device.type)
            config = read_base_config(self.directory, request.task, request.labels)
            while len(self._templates) >= _TEMPLATES_KEPT:
                del self._templates[next(iter(self._templates))]
            self._templates[spec_text] = design_from_spec(config, request, weights=self.directory)
        return self._templates[spec_text]

    def adopt(self, other: Self) -> None:
        """Take over the base that another one holds in memory, if it is the same on the same device."""
        same = (self.fingerprint, self.compute, self.devices) == (other.fingerprint, other.compute, other.devices)
        if other is self or not same or self._bare is not None or other._bare is None:
            return
        bare, adapted = other._bare, other._model
        other._drop()
        if (adapted is None or bare.take_off(adapted)) and bare.attend_by(self.compute.attention(self._seq_len)):
            self._bare = bare

    def with_adapter(self, spec: AdapterSpec, state: AdapterState) -> PeftModel:
        """The model with `state` in its adapter slot; valid until the next call."""
        slot = slot_digest(spec)
        if self._model is None or self._carried != slot:
            self._model, self._carried = self._attached(spec), slot
        if self._bare is not None:
            self._bare.keep_embedding(on_host=slot == self._embedding_on_host)
        load_adapter(self._model, state)
        return self._model

    def plan_steps(self, spec: AdapterSpec, settings: Settings) -> None:
        """Decide what training steps give up, where memory can be predicted; MachineError with what would fit."""
        budget = memory_for_steps(self.compute.device, self.memory_limit_bytes)
        if not budget or len(self.devices) > 1 or spec.task is not AdapterTask.CAUSAL_LM:
            return
        from plait.training.memory_plan import plan_within, steps_of  # most machines have no such limit

        steps = steps_of(settings)
        if self._planned == (wanted := (spec.digest, steps)):
            return
        self._planned, self._embedding_on_host = (), b""
        config = read_base_config(self.directory, spec.task, spec.labels)
        plan = plan_within(budget, config, spec, steps, self.compute)  # refused again at the next attempt
        self._planned = wanted
        if plan:
            self._embedding_on_host = slot_digest(spec) if plan.embedding_on_host else b""
            self.step_memory.begin_with(recomputed=plan.recomputed, cuts=plan.cuts, slice_elements=plan.slice_elements)

    def _attached(self, spec: AdapterSpec) -> PeftModel:
        bare, adapted = self._bare, self._model
        self._drop()  # until the new slot is on, or for good if the base is not what it was
        loaded_as = (spec.task, spec.labels, is_quantised(spec.method), self._dtype(spec))
        if bare is not None and (bare.loaded_as != loaded_as or (adapted and not bare.take_off(adapted))):
            bare = adapted = None  # its memory is free before the base is read again
        if bare is None:
            model = self._read(spec)
            if spec.task is AdapterTask.CLASSIFICATION:
                silence(model)
            bare = BareBase(model, loaded_as)
        bare.keep_embedding(on_host=False)  # new slots lie where the layers lie that they change
        model = attach(bare.model, peft_config_of(spec.peft_config), in_float32=self._adapter_in_float32)
        if bare.model.dtype != self.compute.dtype:
            model.to(self.compute.dtype)  # pyright: ignore[reportUnknownMemberType]
        check_layout(model, spec, base=self.directory.name)
        self._bare = bare
        return model

    def _dtype(self, spec: AdapterSpec) -> torch.dtype:
        # Fixed factors that PEFT derives from the weights equal plain PEFT's only if the weights are not rounded.
        return torch.float32 if spec.peft_config.get("peft_type") == "PSOFT" else self.compute.dtype

    def _drop(self) -> None:
        self._bare, self._model, self._carried = None, None, b""

    def _read(self, spec: AdapterSpec) -> PreTrainedModel:
        config = read_base_config(self.directory, spec.task, spec.labels)
        if spec.task is AdapterTask.CLASSIFICATION and config.pad_token_id is None:
            config.pad_token_id = self.pad_token
        device, settings, finish = self.compute.device, dict[str, object](), None
        if is_quantised(spec.method):
            from plait.training.qlora import four_bits, keep_trainable

            whole = spec.saved_modules if spec.task is AdapterTask.CLASSIFICATION else ()
            settings, finish = four_bits(self.compute, whole=whole), keep_trainable
        elif device.type != "cpu":
            # Straight to the device: main memory never holds a second copy, and on a Jetson both are the same memory.
            settings = {"device_map": {"": device}}
        if len(self.devices) > 1:
            room = {each.index or 0: memory_for_steps(each, self.memory_limit_bytes) for each in self.devices}
            settings |= {"device_map": "auto", "max_memory": room}
        try:
            model = load_base(
                self.directory,
                config,
                spec.task,
                saved=spec.saved_modules,
                dtype=self._dtype(spec),
                attn_implementation=self.compute.attention(self._seq_len),
                **settings,
            )
            if device.type == "cpu":
                keep_freed_memory()
            if finish:
                finish(model)
            if {"cpu", "disk"} & set(map(str, getattr(model, "hf_device_map", {}).values())) and len(self.devices) > 1:
                raise MemoryError
            # What has a map is placed already.
            return model if settings else model.to(device)  # pyright: ignore[reportArgumentType]
        except (torch.OutOfMemoryError, MemoryError) as error:
            names = ", ".join(map(str, self.devices))
            raise MachineError(f"base '{self.directory.name}' does not fit into the memory of {names}") from error


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
        flat[slot.part] = tensors[slot.name].detach().float().cpu().numpy().reshape(-1)
    return AdapterState(like.layout, flat)


def adapter_parameters(model: PeftModel, layout: Layout) -> list[nn.Parameter]:
    """The parameters of an adapter's tensors, in layout order; ConfigError if one cannot be trained in place."""
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
