"""The table of adapter methods: each is a name over one of PEFT's own configuration classes.

To add a method that PEFT has, add a line to `_ALL`. What federated averaging does with it must be said beside it: what
is averaged, whether the model that comes out is the mean of the models that went in, and what never travels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeanutConfig,
    PeftConfig,
    PeftType,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    PsoftConfig,
    TaskType,
    VeraConfig,
)

from plait.adapters import Json, Task
from plait.adapters.module_names import escaped
from plait.aggregation import RULES, Rule, Subject
from plait.errors import ConfigError
from plait.training.method_names import check_method_name

ALL_LINEAR = "all-linear"
PATTERN_KEYS = ("rank_pattern", "alpha_pattern", "layers_pattern")
"""Where PEFT takes a module's name for a regular expression."""

_TASK_TYPES = {Task.CAUSAL_LM: TaskType.CAUSAL_LM, Task.CLASSIFICATION: TaskType.SEQ_CLS}
# The last layer of a block's second half: what PEFT's table for IA3 calls feedforward in the architectures it knows.
_FEEDFORWARD = frozenset({"down_proj", "output.dense", "fc2", "wo", "w2", "dense_4h_to_h", "mlp.c_proj"})


@dataclass(frozen=True)
class BaseModules:
    """What a base consists of, by the last part of its modules' names.

    Attributes:
        linear: linear layers inside the blocks; the output layer and a classifier's head are not among them.
        norms: normalisation layers.
    """

    linear: tuple[str, ...]
    norms: tuple[str, ...]


@dataclass(frozen=True)
class AdapterRequest:
    """What the user asked for, before it meets a base.

    Attributes:
        target_modules: ``all-linear`` or module names separated by commas.
        rank_pattern: ranks of modules that have one of their own, by the end of the module's name.
        bias: ``none``, or which biases of the base LoRA trains too: ``all`` or ``lora_only``.
        virtual_tokens: length of a learned prompt.
    """

    method: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str = ALL_LINEAR
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int], hash=False)
    bias: str = "none"
    virtual_tokens: int = 20

    @property
    def targets(self) -> str | list[str]:
        """The targets as PEFT takes them."""
        return self.target_names or self.target_modules

    @property
    def target_names(self) -> list[str]:
        """The modules that are named; empty for all linear ones."""
        if self.target_modules == ALL_LINEAR:
            return []
        return sorted(name.strip() for name in self.target_modules.split(",") if name.strip())


Configure = Callable[[AdapterRequest, TaskType, BaseModules], PeftConfig]


class Option(StrEnum):
    """A setting that not every method has; the value is its key."""

    RANK = "rank"
    ALPHA = "alpha"
    DROPOUT = "dropout"
    TARGETS = "target-modules"
    PATTERN = "rank-pattern"
    BIAS = "bias"
    TOKENS = "virtual-tokens"


_LORA = frozenset({Option.RANK, Option.ALPHA, Option.DROPOUT, Option.TARGETS, Option.PATTERN, Option.BIAS})


# The rank at which simulations/methods chose learning rates.
_CHOSEN_AT_RANK = 8


@dataclass(frozen=True)
class Method:
    """One way to adapt a base.

    Attributes:
        name: what the user gives to ``--method``.
        title: the paper, with its arXiv number.
        peft_type: PEFT's own name.
        configure: makes PEFT's configuration.
        averages: what the mean is taken of, and whether the mean of the adapters is the mean of the models.
        kept: what belongs to the adapter and never travels, or an empty text.
        subject: what it trains, in the words of the rules.
        options: the settings that it has.
        quantised: whether the base is held in four bits.
        learning_rate: AdamW's where the user names none, up to rank 8 (chosen in simulations/methods).
    """

    name: str
    title: str
    peft_type: PeftType
    configure: Configure
    averages: str
    kept: str = ""
    subject: Subject = Subject.TENSORS
    options: frozenset[Option] = frozenset({Option.TARGETS})
    quantised: bool = False
    learning_rate: float = 1e-3

    def learning_rate_at(self, rank: int) -> float:
        """AdamW's where the user names none; a square matrix moves its product the further the more rows it has."""
        falls = self.subject is Subject.SQUARES and rank > _CHOSEN_AT_RANK
        return self.learning_rate * _CHOSEN_AT_RANK / rank if falls else self.learning_rate


def _alpha(request: AdapterRequest) -> int:
    # PEFT writes alpha as an int where it is one, as every other tool that reads the file expects.
    return int(request.alpha) if float(request.alpha).is_integer() else request.alpha  # pyright: ignore[reportReturnType]


def _lora(request: AdapterRequest, task: TaskType, **more: bool) -> PeftConfig:
    return LoraConfig(
        r=request.rank,
        lora_alpha=_alpha(request),
        lora_dropout=request.dropout,
        target_modules=request.targets,
        rank_pattern=escaped(dict(request.rank_pattern)),  # pyright: ignore[reportArgumentType]
        bias=request.bias,  # pyright: ignore[reportArgumentType]
        task_type=task,
        **more,  # pyright: ignore[reportArgumentType]
    )


def _lora_xs(request: AdapterRequest, task: TaskType, _: BaseModules) -> PeftConfig:
    # PSOFT's R left free is LoRA-XS: W' = W + U S (R - 1) V^T, with U S V^T the best approximation of W of this rank.
    return PsoftConfig(
        r=request.rank,
        psoft_alpha=request.rank,  # the scale cancels in PSOFT's own factors
        psoft_dropout=request.dropout,
        target_modules=request.targets,
        psoft_orth=False,
        psoft_mag_a=False,
        psoft_mag_b=False,
        psoft_svd="lowrank",
        task_type=task,
    )


def _vera(request: AdapterRequest, task: TaskType, _: BaseModules) -> PeftConfig:
    return VeraConfig(
        r=request.rank,
        vera_dropout=request.dropout,
        target_modules=request.targets,
        save_projection=False,
        task_type=task,
    )


def _ia3(request: AdapterRequest, task: TaskType, _: BaseModules) -> PeftConfig:
    names = request.target_names
    if not names:
        # PEFT has the paper's choice (keys, values, the last layer of a block) for the architectures that it knows.
        return IA3Config(task_type=task)
    return IA3Config(
        target_modules=names, feedforward_modules=[name for name in names if name in _FEEDFORWARD], task_type=task
    )


def _peanut(request: AdapterRequest, task: TaskType, base: BaseModules) -> PeftConfig:
    return PeanutConfig(r=request.rank, target_modules=request.target_names or list(base.linear), task_type=task)


def _prompt(request: AdapterRequest, task: TaskType, _: BaseModules) -> PeftConfig:
    return PromptTuningConfig(
        num_virtual_tokens=request.virtual_tokens, prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB, task_type=task
    )


def _prefix(request: AdapterRequest, task: TaskType, _: BaseModules) -> PeftConfig:
    return PrefixTuningConfig(num_virtual_tokens=request.virtual_tokens, task_type=task)


def _p_tuning(request: AdapterRequest, task: TaskType, _: BaseModules) -> PeftConfig:
    return PromptEncoderConfig(num_virtual_tokens=request.virtual_tokens, encoder_hidden_size=128, task_type=task)


def _full(request: AdapterRequest, task: TaskType, base: BaseModules) -> PeftConfig:
    # PEFT trains a copy of each module that it is given, whatever the module is.
    return LNTuningConfig(target_modules=request.target_names or [*base.linear, *base.norms], task_type=task)


_PRODUCT = "A and B, each by itself (fedavg) or as their product (see plait rules)"

_ALL: tuple[Method, ...] = (
    Method(
        "lora", "LoRA (arXiv 2106.09685)", PeftType.LORA, lambda request, task, _: _lora(request, task),
        f"{_PRODUCT}; exact where the rule is", "", Subject.FACTORS, _LORA, learning_rate=3e-3,
    ),
    Method(
        "rslora", "rsLoRA: alpha / sqrt(rank) (arXiv 2312.03732)", PeftType.LORA,
        lambda request, task, _: _lora(request, task, use_rslora=True),
        f"{_PRODUCT}; exact where the rule is", "", Subject.FACTORS, _LORA,
    ),
    Method(
        "qlora", "QLoRA: LoRA over a base in four bits, NF4 (arXiv 2305.14314)", PeftType.LORA,
        lambda request, task, _: _lora(request, task),
        f"{_PRODUCT}; exact where the rule is", "the base's four bits: every client rounds its own copy alike",
        Subject.FACTORS, _LORA, quantised=True, learning_rate=3e-3,
    ),
    Method(
        "dora", "DoRA (arXiv 2402.09353)", PeftType.LORA, lambda request, task, _: _lora(request, task, use_dora=True),
        f"{_PRODUCT}, and magnitudes; never exact, for weights are divided by their own norm",
        "", Subject.FACTORS, _LORA, learning_rate=3e-3,
    ),
    Method(
        "lora_xs", "LoRA-XS (arXiv 2405.17604), with rule fedsb Fed-SB (arXiv 2502.15436)", PeftType.PSOFT, _lora_xs,
        "the square matrices R; exact",
        "A and B: the base's own singular vectors, which every client computes",
        Subject.SQUARES, frozenset({Option.RANK, Option.DROPOUT, Option.TARGETS}),
        learning_rate=1e-2,
    ),
    Method(
        "vera", "VeRA (arXiv 2310.11454)", PeftType.VERA, _vera,
        "the two vectors of scales, each by itself; inexact, for they are multiplied",
        "A and B: random, from a seed", Subject.TENSORS, frozenset({Option.RANK, Option.DROPOUT, Option.TARGETS}),
        learning_rate=3e-2,
    ),
    Method(
        "ia3", "IA3 (arXiv 2205.05638)", PeftType.IA3, _ia3,
        "the vectors of scales; exact, for weights are linear in them",
        learning_rate=3e-2,
    ),
    Method(
        "peanut", "PEANuT: a bottleneck with a non-linearity over each weight (arXiv 2410.01870)", PeftType.PEANUT,
        _peanut,
        "both sides of the bottleneck, each by itself; inexact", "",
        Subject.TENSORS, frozenset({Option.RANK, Option.TARGETS}),
    ),
    Method(
        "prompt", "Prompt tuning (arXiv 2104.08691)", PeftType.PROMPT_TUNING, _prompt,
        "the virtual tokens; a mean of inputs, not of models", "", Subject.TENSORS, frozenset({Option.TOKENS}),
        learning_rate=3e-2,
    ),
    Method(
        "prefix", "Prefix tuning (arXiv 2101.00190)", PeftType.PREFIX_TUNING, _prefix,
        "keys and values before the text; a mean of inputs, not of models", "",
        Subject.TENSORS, frozenset({Option.TOKENS}),
        learning_rate=3e-2,
    ),
    Method(
        "p_tuning", "P-tuning (arXiv 2103.10385)", PeftType.P_TUNING, _p_tuning,
        "the prompt's encoder; inexact, for it is not linear. Published as the prompt that it makes", "",
        Subject.TENSORS, frozenset({Option.TOKENS}),
    ),
    Method(
        "full", "All linear and norm weights (arXiv 1602.05629)", PeftType.LN_TUNING, _full,
        "the weights themselves; exact", "embeddings, which stay as they are",
        learning_rate=1e-4,
    ),
)  # fmt: skip

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def method_of(name: str) -> Method:
    """The method called `name`.

    Raises:
        ConfigError: there is none.
    """
    return METHODS[check_method_name(name)]


def check_options(request: AdapterRequest) -> Method:
    """The method asked for, if what is set beside it means something to it.

    Raises:
        ConfigError: there is no such method, or an option of another one is set.
    """
    method = method_of(request.method)
    plain = AdapterRequest()
    given = {
        Option.DROPOUT: request.dropout != plain.dropout,
        Option.TARGETS: request.target_modules != plain.target_modules,
        Option.PATTERN: bool(request.rank_pattern),
        Option.BIAS: request.bias != plain.bias,
    }
    for option, is_given in given.items():
        if is_given and option not in method.options:
            having = ", ".join(name for name, other in METHODS.items() if option in other.options)
            raise ConfigError(f"{option} is set, but method '{method.name}' has none; methods with it: {having}")
    return method


def check_method_and_rule(method: Method, rule: Rule, *, mixed_ranks: bool) -> None:
    """Refuse a rule that does not do with this method's adapters what it says.

    Raises:
        ConfigError: with the reason and the nearest thing that works.
    """
    if rule.subject is Subject.SQUARES and method.subject is not Subject.SQUARES:
        raise ConfigError(
            f"rule is '{rule.name}' and method '{method.name}', expected method 'lora_xs': only square matrices "
            "between fixed factors have this exact mean; nearest: rule 'fedavg'"
        )
    if rule.subject is Subject.FACTORS and method.subject is not Subject.FACTORS:
        having = ", ".join(name for name, other in METHODS.items() if other.subject is Subject.FACTORS)
        raise ConfigError(
            f"rule is '{rule.name}' and method '{method.name}', which has no factors A and B, expected one of "
            f"{having}; nearest: rule '{'fedsb' if method.subject is Subject.SQUARES else 'fedavg'}'"
        )
    if rule.moves_base and method.quantised:
        raise ConfigError(
            f"rule is '{rule.name}', which moves the base, and method '{method.name}' holds it in four bits, which "
            "would round every move; nearest: method 'lora', or rule 'flexlora'"
        )
    if mixed_ranks and method.subject is not Subject.FACTORS:
        raise ConfigError(
            f"client-ranks are given and method is '{method.name}', expected 'lora': other adapters cannot be cut to a "
            "lower rank"
        )


def peft_config_for(request: AdapterRequest, task: Task, base: BaseModules) -> PeftConfig:
    """PEFT's configuration of the method asked for.

    Args:
        request: what is asked for.
        task: what the base does.
        base: its modules.

    Raises:
        ConfigError: there is no such method, or it has not all that is set.
    """
    method = check_options(request)
    with warnings.catch_warnings():
        # VeRA's says what `kept` says: its matrices come from a seed.
        warnings.simplefilter("ignore")
        return method.configure(request, _TASK_TYPES[task], base)


def peft_config_of(settings: Mapping[str, Json]) -> PeftConfig:
    """PEFT's configuration from checked settings (`plait.adapters.peft_settings`).

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    given = {key: escaped(value) if key in PATTERN_KEYS else value for key, value in settings.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftConfig.from_peft_type(**given)


def rules_for(method: Method) -> tuple[str, ...]:
    """Names of the rules that may combine this method's adapters."""
    names: list[str] = []
    for name, rule in RULES.items():
        try:
            check_method_and_rule(method, rule, mixed_ranks=False)
        except ConfigError:
            continue
        names.append(name)
    return tuple(names)
