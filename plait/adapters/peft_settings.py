"""The permitted contents of a PEFT configuration from outside, and specs from another party.

Checked before PEFT or torch see them: no regular expressions, paths, code or unbounded work. A key that is not in the
table is refused, unless it is null, false or empty, as PEFT writes disabled features. The number of parameters depends
on the base and is checked where it is known (`plait.training.peft_adapter`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, cast

from plait.adapters.method import FLAGS, MAX_CHARACTERS, is_plain
from plait.adapters.methods import METHODS, method_named
from plait.adapters.safetensors import parse_object, shown
from plait.adapters.spec import BOTTLENECK_TYPE, UNBUILT, AdapterSpec, AdapterTask
from plait.errors import ConfigError, PeerError
from plait.system.text import Json

MAX_RANK = 4096
MAX_SQUARE_RANK = 512
"""Of LoRA-XS, whose fixed factors are computed from the weights."""
MAX_VIRTUAL_TOKENS = 4096
MAX_WIDTH = 1 << 16
"""Of a prompt's encoder."""
MAX_LAYERS = 1024
MAX_DEPTH = 8
MAX_NAMES = 1024
MAX_SAVED = 64
MAX_ALPHA = 1e12
BOTTLENECK_ACTIVATIONS = ("gelu", "relu", "silu", "tanh")
_MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class _Rule:
    """The permitted values of one key, as a test and in words."""

    holds: Callable[[Json], bool]
    expected: str

    def or_null(self) -> Self:
        return type(self)(lambda value: value is None or self.holds(value), f"{self.expected}, or null")


@dataclass(frozen=True)
class _Table:
    """Keys of one type of adapter, and those that must be set, because PEFT has another default or none."""

    rules: Mapping[str, _Rule]
    required: frozenset[str] = field(default_factory=frozenset[str])


def _one_of(*values: Json) -> _Rule:
    def holds(value: Json) -> bool:
        # Of the same type too: 1 == True, and a list is in no set.
        return any(type(value) is type(known) and value == known for known in values)

    return _Rule(
        holds,
        " or ".join(
            "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
            for value in values
        ),
    )


def _whole(least: int, most: int) -> _Rule:
    # type() and not isinstance: JSON's true is no number.
    return _Rule(lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}")


def _number(least: float, most: float) -> _Rule:
    def holds(value: Json) -> bool:
        return type(value) in (int, float) and least <= value <= most  # pyright: ignore[reportOperatorIssue]

    return _Rule(holds, f"a number from {least:g} to {most:g}")


def _list_of(rule: _Rule, *, most: int, least: int = 0) -> _Rule:
    def holds(value: Json) -> bool:
        return isinstance(value, list) and least <= len(value) <= most and all(map(rule.holds, value))

    return _Rule(holds, f"a list of {least} to {most}, each {rule.expected}")


def _either(*rules: _Rule) -> _Rule:
    return _Rule(lambda value: any(rule.holds(value) for rule in rules), ", or ".join(rule.expected for rule in rules))


_FLAG = _Rule(lambda value: isinstance(value, bool), "true or false")
_NAME = _Rule(is_plain, f"a plain name of a module (at most {MAX_CHARACTERS} letters, digits, '_', '.')")
_FRACTION = _number(0, 0.999)
_LAYER = _whole(0, 9999)
_ALPHA = _number(1 / MAX_ALPHA, MAX_ALPHA)
_RANK = _whole(1, MAX_RANK)
_NAMES = _list_of(_NAME, most=MAX_NAMES)
_SIZE = _whole(1, MAX_WIDTH).or_null()
_ACTIVATIONS = ("relu", "relu6", "gelu", "silu", "swish", "tanh", "sigmoid", "leaky_relu", "mish", "linear")

_SAVED: Mapping[str, _Rule] = {"modules_to_save": _list_of(_NAME, most=MAX_SAVED).or_null()}
_TARGETED: Mapping[str, _Rule] = {
    **_SAVED,
    "target_modules": _either(_one_of("all-linear"), _list_of(_NAME, most=MAX_NAMES, least=1)),
}
_EXCLUDING: Mapping[str, _Rule] = {**_TARGETED, "exclude_modules": _NAMES.or_null()}
_LAYERED: Mapping[str, _Rule] = {
    **_TARGETED,
    "layers_to_transform": _either(_LAYER, _list_of(_LAYER, most=MAX_LAYERS)).or_null(),
}
_PROMPT: Mapping[str, _Rule] = {
    **_SAVED,
    "num_virtual_tokens": _whole(1, MAX_VIRTUAL_TOKENS),
    "token_dim": _SIZE,
    "num_transformer_submodules": _whole(1, 2).or_null(),
    "num_attention_heads": _whole(1, MAX_LAYERS).or_null(),
    "num_layers": _whole(1, MAX_LAYERS).or_null(),
}
_TOKENS = frozenset({"num_virtual_tokens"})
_TARGETS = frozenset({"target_modules"})

_TABLES: Mapping[str, _Table] = {
    # Other initial values decompose every weight, run any number of iterations, or move the base itself.
    "LORA": _Table({
        **_LAYERED, **_EXCLUDING,
        "r": _RANK, "lora_alpha": _ALPHA, "lora_dropout": _FRACTION, "bias": _one_of("none"),
        "use_rslora": _FLAG, "use_dora": _FLAG, "fan_in_fan_out": _FLAG,
        "init_lora_weights": _one_of(True, False, "gaussian"),
        "megatron_core": _one_of("megatron.core", None), "qalora_group_size": _SIZE,
    }, _TARGETS),
    # PSOFT as LoRA-XS is one: its square matrix free, its factors from a bounded number of iterations.
    "PSOFT": _Table({
        **_LAYERED, **_EXCLUDING,
        "r": _whole(1, MAX_SQUARE_RANK), "psoft_alpha": _ALPHA, "psoft_dropout": _FRACTION,
        "psoft_orth": _one_of(False), "psoft_mag_a": _one_of(False), "psoft_mag_b": _one_of(False),
        "psoft_svd": _one_of("lowrank"), "psoft_svd_lowrank_niter": _whole(0, 10),
        "ab_svd_init": _one_of("psoft_init"), "random_seed": _whole(0, _MAX_SEED),
        "fan_in_fan_out": _FLAG, "init_weights": _FLAG, "num_cayley_neumann_terms": _one_of(5),
    }, _TARGETS | {"r", "psoft_orth", "psoft_mag_a", "psoft_mag_b", "psoft_svd"}),
    "VERA": _Table({
        **_LAYERED,
        "r": _RANK, "projection_prng_key": _whole(0, _MAX_SEED), "save_projection": _FLAG, "vera_dropout": _FRACTION,
        "d_initial": _number(-MAX_ALPHA, MAX_ALPHA), "fan_in_fan_out": _FLAG, "bias": _one_of("none"),
        "init_weights": _FLAG,
    }, _TARGETS),
    "IA3": _Table({
        **_EXCLUDING,
        "feedforward_modules": _NAMES.or_null(), "fan_in_fan_out": _FLAG, "init_ia3_weights": _FLAG,
    }, _TARGETS),
    "PEANUT": _Table({
        **_LAYERED, **_EXCLUDING,
        "r": _RANK, "depth": _whole(0, MAX_DEPTH), "act_fn": _one_of(*_ACTIVATIONS),
        "scaling": _number(-MAX_ALPHA, MAX_ALPHA), "init_weights": _FLAG,
    }, _TARGETS),
    # Registered by plait (`plait.training.bottleneck`).
    BOTTLENECK_TYPE: _Table({**_EXCLUDING, "r": _RANK, "act_fn": _one_of(*BOTTLENECK_ACTIVATIONS)}, _TARGETS),
    # The words of a text would come from a tokenizer that the configuration names.
    "PROMPT_TUNING": _Table({**_PROMPT, "prompt_tuning_init": _one_of("RANDOM", "SAMPLE_VOCAB")}, _TOKENS),
    "PREFIX_TUNING": _Table({
        **_PROMPT,
        "encoder_hidden_size": _SIZE, "prefix_projection": _one_of(False), "init_weights": _one_of("zero", None),
    }, _TOKENS),
    "P_TUNING": _Table({
        **_PROMPT,
        "encoder_hidden_size": _SIZE, "encoder_reparameterization_type": _one_of("MLP"),
        "encoder_num_layers": _one_of(2), "encoder_dropout": _FRACTION,
    }, _TOKENS),
    "LN_TUNING": _Table(_EXCLUDING, _TARGETS),
}  # fmt: skip
_TASK_TYPES = _one_of("CAUSAL_LM", "SEQ_CLS", None)


def checked_settings(settings: Mapping[str, Json], *, what: str) -> dict[str, Json]:
    """The settings to pass to PEFT, each checked (PeerError); all others, which are null, false or empty, are left out.

    Of PEFT's configuration as JSON, without `PLACE_KEYS`.
    """
    kind = settings.get("peft_type")
    table = _TABLES.get(kind) if isinstance(kind, str) else None
    if table is None:
        raise PeerError(f"peft_type of {what} is {shown(kind)}, expected one of {', '.join(_TABLES)}")
    kept: dict[str, Json] = {}
    for key, value in settings.items():
        rule = _TASK_TYPES if key == "task_type" else table.rules.get(key)
        if key == "peft_type" or (rule is not None and rule.holds(value)):
            kept[key] = value
        elif rule is not None:
            raise PeerError(f"{key} of {what} is {shown(value)}, expected {rule.expected}{_hint(key, value)}")
        elif not (value is None or value is False or value in ([], {}, "")):
            raise PeerError(
                f"{shown(key)[1:-1]} of {what} is {shown(value)}, expected null: plait does not support it for "
                f"adapters of type {kind}"
            )
    for key in sorted(table.required - kept.keys()):
        raise PeerError(f"{key} of {what} is missing, expected {table.rules[key].expected}")
    return kept


def _hint(key: str, value: Json) -> str:
    if key == "init_lora_weights":
        return ": others compute on, or change, the base's weights; convert it to plain LoRA with PEFT first"
    if key.endswith("_modules") and isinstance(value, str):
        return ": regular expressions are not supported; list the names of the modules"
    return ""


MAX_BYTES = 1 << 20
MAX_LABELS = 65_536
MAX_LABEL_CHARACTERS = 4096

_WHAT = "the adapter spec"
TYPE_OF_TASK: Mapping[AdapterTask, str] = {AdapterTask.CAUSAL_LM: "CAUSAL_LM", AdapterTask.CLASSIFICATION: "SEQ_CLS"}

_LABEL = _Rule(
    lambda value: isinstance(value, str) and value.isprintable() and len(value) <= MAX_LABEL_CHARACTERS,
    "a printable name",
)
_SPEC: Mapping[str, _Rule] = {
    "method": _Rule(lambda value: isinstance(value, str), "a name"),
    "peft_config": _Rule(lambda value: isinstance(value, dict), "an object of settings"),
    "task": _one_of(*(task.value for task in AdapterTask)),
    "labels": _list_of(_LABEL, most=MAX_LABELS),
    "init_seed": _whole(0, _MAX_SEED),
    "init_rank": _whole(0, MAX_RANK),
}


def parse_spec(text: str) -> AdapterSpec:
    """Read and check a spec from another party, `AdapterSpec.text`; its layout is `UNBUILT`."""
    spec = parse_object(text.encode("utf-8", "surrogatepass"), what=_WHAT, max_bytes=MAX_BYTES)
    stated = _SPEC.keys() - {"init_rank"}
    for key in sorted(stated ^ (spec.keys() - {"init_rank"})):
        fault = "unknown" if key in spec else "missing"
        raise PeerError(f"{shown(key)} of {_WHAT} is {fault}, expected {', '.join(sorted(stated))}")
    for key, value in spec.items():
        if not _SPEC[key].holds(value):
            raise PeerError(f"{key} of {_WHAT} is {shown(value)}, expected {_SPEC[key].expected}")
    method, settings = cast("str", spec["method"]), cast("dict[str, Json]", spec["peft_config"])
    try:
        own = method_named(method)
    except ConfigError as error:
        raise PeerError(f"method of {_WHAT} is {shown(method)}, expected one of {', '.join(METHODS)}") from error
    task, labels = AdapterTask(cast("str", spec["task"])), tuple(cast("list[str]", spec["labels"]))
    if len(set(labels)) < len(labels) or (labels and task is AdapterTask.CAUSAL_LM):
        raise PeerError(
            f"labels of {_WHAT} are {shown(spec['labels'])}, expected different names, and none of a language model"
        )
    checked = checked_settings(settings, what=_WHAT)
    peft_type, fixed = own.peft_type, own.fixed
    _expect("peft_type", checked["peft_type"], peft_type, f"of method '{method}'")
    _expect("task_type", checked.get("task_type"), TYPE_OF_TASK[task], f"of task '{task}'")
    for flag in sorted({*FLAGS, *fixed}):
        _expect(flag, checked.get(flag, False), fixed.get(flag, False), f"of method '{method}'")
    seed, init_rank = cast("int", spec["init_seed"]), cast("int", spec.get("init_rank", 0))
    return AdapterSpec(method, checked, task, labels, UNBUILT, seed, init_rank)


def _expect(key: str, got: Json, expected: Json, because: str) -> None:
    if got != expected:
        raise PeerError(f"{key} of {_WHAT} is {shown(got)}, expected {expected!r} {because}")
