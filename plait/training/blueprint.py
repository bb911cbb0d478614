"""The shape and the initial values of an adapter, from a base's config alone unless they start with values of the base.

PEFT builds its real, seeded adapter on a placeholder whose frozen weights take no memory. Server and client both derive
layout and initial adapter so; neither is sent. A classifier's head, all after the encoder or decoder, is part of the
adapter; so is a pooler with methods that train factors (arXiv 2006.05987, section 5).
"""

import copy
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, PeftType, PromptTuningInit
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout, parse_spec
from plait.adapters.fingerprint import stored_tensors
from plait.adapters.method import (
    ATTENTION_OUTPUTS,
    FEEDFORWARD_OUTPUTS,
    AdapterRequest,
    BaseModules,
    Subject,
    is_in,
    is_saved,
    matches,
)
from plait.adapters.methods import method_named
from plait.adapters.peft import AUTO_CLASS
from plait.adapters.spec import UNBUILT
from plait.aggregation import Resizing, geometry_of
from plait.errors import ConfigError, PeerError, did_you_mean
from plait.system.machine import give_back_memory
from plait.training.peft_adapter import (
    adapter_tensors,
    attach,
    first_sentence,
    peft_config_for,
    peft_config_of,
    settings_of,
)

AUTO_CLASSES: Mapping[AdapterTask, Any] = {task: getattr(transformers, name) for task, name in AUTO_CLASS.items()}
NAMED = frozenset({"classifier", "score"})
"""Heads that PEFT saves with every adapter of a classifier."""

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_POOLER = "pooler"
_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """An adapter without values."""

    spec: AdapterSpec
    base_parameters: int


@dataclass(frozen=True)
class AdapterTemplate(Shape):
    """An adapter before any training, with the values that training starts from."""

    initial: AdapterState


def read_base_config(directory: Path, task: AdapterTask, labels: tuple[str, ...] = ()) -> PretrainedConfig:
    """The base's config for the task; ConfigError if transformers does not know it or it does not support the task."""
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"base '{directory}' has no config that transformers understands: {first}") from error
    known = type(config) in AUTO_CLASSES[task]._model_mapping
    # Whether it was trained for it: transformers would load even an encoder as a language model.
    predicts = any(name.endswith(_LANGUAGE_MODELS) for name in config.architectures or _LANGUAGE_MODELS)
    if not known or (task is AdapterTask.CAUSAL_LM and not predicts):
        lacks = "cannot classify text, but the data has labels; change --base"
        if task is AdapterTask.CAUSAL_LM:
            lacks = "cannot write text, and the data has no labels; give --columns label=COLUMN, or change --base"
        raise ConfigError(f"the base ({config.model_type}) {lacks}")
    if labels:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    return config


def load_base(
    directory: Path, config: PretrainedConfig, task: AdapterTask, *, saved: Collection[str] = (), **settings: object
) -> PreTrainedModel:
    """The base as transformers loads it; ConfigError if its files lack values that would be drawn at random."""
    loaded = AUTO_CLASSES[task].from_pretrained(
        directory,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **settings,
    )
    model, found = cast("tuple[PreTrainedModel, Mapping[str, Collection[str]]]", loaded)
    if lacking := sorted(name for name in found["missing_keys"] if not is_saved(name, saved)):
        raise ConfigError(
            f"the files of base '{directory.name}' lack {len(lacking)} of its tensors, of which the first is "
            f"'{lacking[0]}': use complete files, or an adapter that has them"
        )
    return model


def design(
    config: PretrainedConfig,
    request: AdapterRequest,
    *,
    task: AdapterTask,
    labels: tuple[str, ...] = (),
    seed: int,
    init_rank: int = 0,
    weights: Path | None = None,
) -> AdapterTemplate:
    """Lay out the requested adapter on this base, with initial values from `seed`; ConfigError if it does not fit.

    Without `weights`, the base's directory, values of the base are zeros, and its files count as having a pooler.
    """
    base, peft_config = _requested(config, request, task, weights)
    if (
        task is AdapterTask.CLASSIFICATION
        and peft_config.peft_type == PeftType.PREFIX_TUNING
        and "past_key_values" not in signature(base.forward).parameters
    ):
        raise ConfigError(
            f"method is 'prefix', but a base of type {config.model_type} accepts no keys and values before its input; "
            "nearest: method 'prompt'"
        )
    wanted = AdapterSpec(request.method, {}, task, labels, UNBUILT, seed, init_rank)
    made = _build(config, wanted, peft_config, weights)
    try:
        parse_spec(made.spec.text)
    except PeerError as error:
        raise ConfigError(f"clients would refuse this adapter: {error}") from error
    return made


def shape_of(
    config: PretrainedConfig, request: AdapterRequest, *, task: AdapterTask, labels: tuple[str, ...] = (), seed: int
) -> Shape:
    """The layout that `design` would find, on the meta device: it takes no memory, whatever the base's size."""
    base, peft_config = _requested(config, request, task, None)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    try:
        with torch.device("meta"):
            model = attach(base, peft_config)
        return Shape(_spec_of(model, AdapterSpec(request.method, {}, task, labels, UNBUILT, seed)), parameters)
    except NotImplementedError:
        # PEFT's prompts are made of values.
        return design(config, request, task=task, labels=labels, seed=seed)


def _requested(
    config: PretrainedConfig, request: AdapterRequest, task: AdapterTask, weights: Path | None
) -> tuple[PreTrainedModel, PeftConfig]:
    """The base without values, and PEFT's configuration of the requested adapter on it."""
    base = meta_model(config, task)
    heads = frozenset[str]()
    if task is AdapterTask.CLASSIFICATION:
        is_new = method_named(request.method).subject is Subject.FACTORS
        is_new |= weights is not None and lacks_pooler(base, stored_tensors(weights).keys())
        heads = head_modules(base, pooler=is_new)
    modules = _modules_of(base, heads)
    peft_config = peft_config_for(request, task, modules)
    # PEFT ignores a name that matches nothing as long as another one matches.
    known = (*modules.linear, *(modules.norms if method_named(request.method).trains_base else ()))
    for name in request.target_names:
        if name.rsplit(".", 1)[-1] not in known and name not in ("embed_tokens", "wte"):
            raise ConfigError(
                f"target-modules has '{name}', which matches no module of this base, expected some of "
                f"{', '.join(known)}{did_you_mean(name, known)}"
            )
    return base, peft_config


def design_from_spec(config: PretrainedConfig, request: AdapterSpec, *, weights: Path | None = None) -> AdapterTemplate:
    """The adapter that another party described; PeerError if PEFT refuses it, ConfigError if it does not fit."""
    # Settings that PEFT derives from the base are derived again.
    settings = {key: value for key, value in request.peft_config.items() if key not in _DERIVED_KEYS}
    try:
        peft_config = peft_config_of(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise PeerError(f"adapter spec is not valid: {first_sentence(error)}") from error
    made = _build(config, request, peft_config, weights)
    for key in sorted(_DERIVED_KEYS & request.peft_config.keys()):
        if request.peft_config[key] != made.spec.peft_config.get(key):
            raise PeerError(
                f"{key} of the adapter spec is {request.peft_config[key]}, expected {made.spec.peft_config.get(key)} "
                "on this base"
            )
    return made


def base_modules(config: PretrainedConfig, task: AdapterTask) -> BaseModules:
    """The module names of a base, from its config alone; all that may be a part of a classifier's head is one."""
    model = meta_model(config, task)
    return _modules_of(model, head_modules(model) if task is AdapterTask.CLASSIFICATION else frozenset())


def head_modules(model: nn.Module, *, pooler: bool = True) -> frozenset[str]:
    """The names of the modules that are a classifier's head, with the encoder's pooler, if it has one, or without."""
    prefix, backbone = _backbone(model)
    if backbone is None:
        return NAMED
    after = {name: module for name, module in model.named_children() if module is not backbone}
    if pooler and isinstance(last := getattr(backbone, _POOLER, None), nn.Module):
        after[f"{prefix}.{_POOLER}"] = last
    return NAMED | {name for name, module in after.items() if any(True for _ in module.parameters())}


def lacks_pooler(model: nn.Module, stored: AbstractSet[str]) -> bool:
    """Whether the model has a pooler and the base's tensors of these names do not."""
    prefix, backbone = _backbone(model)
    pooler = getattr(backbone, _POOLER, None)
    names = [f"{_POOLER}.{name}" for name, _ in pooler.named_parameters()] if isinstance(pooler, nn.Module) else []
    return any(stored.isdisjoint((name, f"{prefix}.{name}")) for name in names)


def draw_heads(adapted: PeftModel, *, seed: int) -> None:
    """Draw a classifier's head in place: the last layer is zero (equal classes), those below normal, as BERT's."""
    generator = torch.Generator().manual_seed(seed)
    wrappers = (module for module in adapted.modules() if isinstance(module, ModulesToSaveWrapper))
    heads: list[nn.Module] = [wrapper.modules_to_save["default"] for wrapper in wrappers]
    last = _last_layer(heads)
    for head in heads:
        for module in head.modules():
            is_norm = "norm" in type(module).__name__.lower()
            for name, like in list(module.named_parameters(recurse=False)):
                values = torch.zeros(like.shape, dtype=torch.float32)
                if is_norm and name == "weight":
                    values.fill_(1)
                elif module is not last and like.ndim > 1:
                    values.normal_(0, _STD, generator=generator)
                setattr(module, name, nn.Parameter(values.to(like.dtype), requires_grad=like.requires_grad))


@torch.no_grad()
def silence(model: nn.Module) -> None:
    """Set the last layer of a classifier without an adapter to zero, as an untrained adapter has it; in place."""
    _, backbone = _backbone(model)
    last = _last_layer(module for module in model.children() if module is not backbone)
    for parameter in last.parameters() if last else ():
        parameter.zero_()


def _backbone(model: nn.Module) -> tuple[str, nn.Module | None]:
    prefix = str(getattr(model, "base_model_prefix", ""))
    backbone = getattr(model, prefix, None) if prefix else None
    return prefix, backbone if isinstance(backbone, nn.Module) else None


def _last_layer(heads: Iterable[nn.Module]) -> nn.Module | None:
    linear = [module for head in heads for module in head.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _modules_of(model: nn.Module, heads: frozenset[str]) -> BaseModules:
    output = getattr(model, "get_output_embeddings", lambda: None)()
    linear: dict[str, None] = {}
    whole: list[str] = []
    norms: dict[str, None] = {}
    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if type(module).__name__ in ("Linear", "Conv1D"):
            if module is not output and not is_in(name, heads):
                linear[leaf] = None
                whole.append(name)
        elif "norm" in type(module).__name__.lower():
            norms[leaf] = None
    attention = tuple(end for end in ATTENTION_OUTPUTS if any(matches(name, (end,)) for name in whole))
    others = [name for name in whole if not matches(name, attention)]
    feedforward = tuple(end for end in FEEDFORWARD_OUTPUTS if any(matches(name, (end,)) for name in others))
    return BaseModules(tuple(linear), tuple(norms), attention, feedforward, tuple(sorted(heads)))


def _build(
    config: PretrainedConfig, request: AdapterSpec, peft_config: PeftConfig, weights: Path | None
) -> AdapterTemplate:
    own = _drawn(config, request, peft_config, weights)
    if request.init_rank in (0, own.spec.rank):
        return own
    from plait.aggregation.factors import fitted  # most runs resize nothing

    wider = copy.deepcopy(peft_config)
    wider.r = request.init_rank  # pyright: ignore[reportAttributeAccessIssue]
    drawn = _drawn(config, request, wider, weights)
    spec = replace(own.spec, init_rank=request.init_rank)
    initial = fitted(
        drawn.initial,
        source=geometry_of(drawn.spec),
        target=geometry_of(spec),
        resizing=Resizing.SLICE,
        fresh=own.initial,
    )
    return replace(own, spec=spec, initial=initial)


def _drawn(
    config: PretrainedConfig, request: AdapterSpec, peft_config: PeftConfig, weights: Path | None
) -> AdapterTemplate:
    # A copy of every weight has no values of its own to draw.
    copies = peft_config.peft_type == PeftType.LN_TUNING
    placeholder = meta_model(config, request.task) if copies else _placeholder_model(config, request.task)
    parameters = sum(parameter.numel() for parameter in placeholder.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.init_seed)
        # PEFT writes what it derives from the base into the configuration.
        model = attach(placeholder, copy.deepcopy(peft_config))
    if request.task is AdapterTask.CLASSIFICATION:
        draw_heads(model, seed=request.init_seed)
    tensors = adapter_tensors(model)
    spec = _spec_of(model, request)
    initial = AdapterState.from_tensors(spec.layout, {name: _as_array(tensor) for name, tensor in tensors.items()})
    if not copies:
        del tensors
        _free(model)
    if weights is not None and starts_from_weights(peft_config):
        initial = _from_weights(initial, spec, config, copy.deepcopy(peft_config), weights)
    return AdapterTemplate(spec, parameters, initial)


def _spec_of(model: PeftModel, request: AdapterSpec) -> AdapterSpec:
    layout = Layout.of({name: tensor.shape for name, tensor in adapter_tensors(model).items()})
    return replace(request, peft_config=settings_of(model.peft_config["default"]), layout=layout, init_rank=0)


def _as_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    if tensor.is_meta:
        return np.zeros(tuple(tensor.shape), np.float32)
    return tensor.detach().to(torch.float32).numpy()


def _free(model: nn.Module) -> None:
    """Free a model's values now: its modules refer to each other, so the model itself lives on until Python looks."""
    for parameter in model.parameters():
        parameter.data = parameter.new_empty(0)
    give_back_memory()


def starts_from_weights(config: PeftConfig) -> bool:
    """Whether an adapter starts with values of the base."""
    if config.peft_type == PeftType.PROMPT_TUNING:
        return getattr(config, "prompt_tuning_init", None) == PromptTuningInit.SAMPLE_VOCAB
    return config.peft_type == PeftType.LN_TUNING or bool(getattr(config, "use_dora", False))


def _from_weights(
    placeholder: AdapterState, spec: AdapterSpec, config: PretrainedConfig, peft_config: PeftConfig, directory: Path
) -> AdapterState:
    """The initial adapter on the real base; a classifier's head is that of the placeholder model."""
    with torch.random.fork_rng(devices=[]):
        model = load_base(directory, config, spec.task, saved=spec.saved_modules, dtype=torch.float32)
        torch.manual_seed(spec.init_seed)
        tensors = adapter_tensors(attach(model, peft_config))
    arrays = {
        name: placeholder[name] if is_saved(name, spec.saved_modules) else _as_array(tensor)
        for name, tensor in tensors.items()
    }
    return AdapterState.from_tensors(spec.layout, arrays)


def meta_model(config: PretrainedConfig, task: AdapterTask) -> PreTrainedModel:
    """The base's modules without values, on the meta device."""
    with torch.device("meta"):
        model = AUTO_CLASSES[task].from_config(config, dtype=torch.float32, trust_remote_code=False)
        return cast("PreTrainedModel", model)


def _placeholder_model(config: PretrainedConfig, task: AdapterTask) -> nn.Module:
    model = meta_model(config, task)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            setattr(module, name, nn.Parameter(zero, requires_grad=False))
    model.tie_weights()
    return model


# Sizes of the base, which PEFT writes into the configuration of a learned prompt.
_DERIVED_KEYS = frozenset({"token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"})
