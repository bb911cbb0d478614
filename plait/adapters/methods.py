"""The table of adapter methods: each is a value, over one of PEFT's configuration types or plait's own, bottlenecks.

To add a method of PEFT, add an entry to `METHODS` and, where its type is new, a table of permitted settings to
`peft_settings`. An entry also states how federated averaging works with the method: what is averaged, whether the
result is the mean of the clients' models, and what is never sent. Knows no PEFT class, so a name can be checked and a
client's policy read before any heavy library is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from plait.adapters import bottleneck
from plait.adapters.module_names import escaped, matches
from plait.adapters.spec import Json
from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.plugins import Kind, find
from plait.traits import Reasons, Trait

ALL_LINEAR = "all-linear"

ATTENTION_OUTPUTS = (
    "o_proj", "out_proj", "attention.output.dense", "attention.dense", "self_attention.dense", "self_attn.dense",
    "attn.c_proj", "attention.out_lin", "attn.Wo",
)  # fmt: skip
"""The last layer of a block's first half, by the end of its name, in the architectures that transformers has."""
FEEDFORWARD_OUTPUTS = (
    "down_proj", "output.dense", "fc2", "wo", "w2", "dense_4h_to_h", "mlp.c_proj", "fc_out", "ffn.lin2", "ffn_output",
    "mlp.Wo",
)  # fmt: skip
"""The last layer of a block's second half, likewise. PEFT's table for IA3 calls some of them feedforward."""
# The rank at which simulations/methods chose learning rates.
_CHOSEN_AT_RANK = 8
# PEFT's types of adapters that are a prompt of their own.
_PROMPTS = frozenset({"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"})
# Requested methods that are not supported, and the nearest alternatives.
_ELSEWHERE: Mapping[str, str] = {
    "adalora": "it chooses ranks from one client's gradients; the nearest is 'lora' with --rank-pattern",
}


class Subject(StrEnum):
    """What kind of tensors an adapter trains, or a rule combines."""

    TENSORS = "any tensors"
    FACTORS = "factors A and B"
    SQUARES = "square matrices between fixed factors"


class Option(StrEnum):
    """A setting that only some methods have; the value is its key."""

    RANK = "rank"
    ALPHA = "alpha"
    DROPOUT = "dropout"
    TARGETS = "target-modules"
    PATTERN = "rank-pattern"
    BIAS = "bias"
    TOKENS = "virtual-tokens"


@dataclass(frozen=True)
class BaseModules:
    """The modules of a base, by the last part of their names, or the last parts where one does not tell.

    Attributes:
        linear: linear layers inside the blocks; the output layer and a classifier's head are not among them.
        attention_outputs: those of `ATTENTION_OUTPUTS` that the base has.
        feedforward_outputs: those of `FEEDFORWARD_OUTPUTS` that end no attention.
        heads: modules of a classifier's head, by their whole names.
    """

    linear: tuple[str, ...]
    norms: tuple[str, ...]
    attention_outputs: tuple[str, ...] = ()
    feedforward_outputs: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdapterRequest:
    """The requested adapter, before it is matched with a base.

    Attributes:
        target_modules: ``all-linear`` or module names separated by commas.
        rank_pattern: ranks of modules that have their own, by the end of the module's name.
        bias: ``none``, or which biases of the base LoRA trains too: ``all`` or ``lora_only``.
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


Settings = Callable[[AdapterRequest, BaseModules], Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt a base.

    Attributes:
        name: what the user gives to ``--method``.
        aliases: what users of other systems call it.
        title: the paper, with its arXiv number.
        settings: makes PEFT's settings from a request, except type and task.
        fixed: further settings that distinguish it from other methods of the same type.
        averages: what is averaged, and whether the mean of the adapters is the mean of the models.
        kept: the part of the adapter that is never sent, or an empty text.
        subject: what it trains, in the words of the rules.
        quantised: whether the base is held in four bits.
        trains_base: whether it trains the base's own weights, norms among them, so that an update shows them.
        learning_rate: AdamW's default with `--trainer`, a reward or `--dp`, up to rank 8 (chosen in
            simulations/methods).
        virtual_tokens: length of its learned prompt, if it has one.
        eight_bits: whether it works over a base in eight bits.
    """

    name: str
    title: str
    peft_type: str
    settings: Settings
    averages: str
    aliases: tuple[str, ...] = ()
    fixed: Mapping[str, Json] = field(default_factory=dict[str, Json], hash=False)
    kept: str = ""
    subject: Subject = Subject.TENSORS
    options: frozenset[Option] = frozenset({Option.TARGETS})
    quantised: bool = False
    trains_base: bool = False
    learning_rate: float = 1e-3
    virtual_tokens: int = 20
    eight_bits: bool = False

    @property
    def needs(self) -> Reasons:
        """What a run must have for it (`plait.traits`)."""
        return {} if self.eight_bits else {Trait.BASE_EXACT: ""}

    @property
    def takes(self) -> Reasons:
        """What a run with it does not have."""
        trains = f"'{self.name}' trains {self.subject}"
        kinds = {Trait.FACTORS: Subject.FACTORS, Trait.SQUARES: Subject.SQUARES}
        gone = {trait: trains for trait, subject in kinds.items() if self.subject is not subject}
        if self.quantised:
            gone[Trait.BASE_EXACT] = f"'{self.name}' holds it in four bits"
        if self.peft_type in _PROMPTS:
            gone[Trait.SAMPLES] = "completions are sampled without a prompt of its own"
        return gone

    def learning_rate_at(self, rank: int) -> float:
        """AdamW's default; the more rows a square matrix has, the further it moves its product."""
        falls = self.subject is Subject.SQUARES and rank > _CHOSEN_AT_RANK
        return self.learning_rate * _CHOSEN_AT_RANK / rank if falls else self.learning_rate


def _lora(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    return {
        "r": request.rank,
        # PEFT writes alpha as an int where it is one, as every other tool that reads the file expects.
        "lora_alpha": int(request.alpha) if float(request.alpha).is_integer() else request.alpha,
        "lora_dropout": request.dropout,
        "target_modules": request.targets,
        "rank_pattern": escaped(dict(request.rank_pattern)),
        "bias": request.bias,
    }


def _lora_xs(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    # PSOFT's R left free is LoRA-XS: W' = W + U S (R - 1) V^T, with U S V^T the best approximation of W of this rank.
    return {
        "r": request.rank,
        "psoft_alpha": request.rank,  # the scale cancels in PSOFT's own factors
        "psoft_dropout": request.dropout,
        "target_modules": request.targets,
        "psoft_orth": False,
        "psoft_mag_a": False,
        "psoft_mag_b": False,
        "psoft_svd": "lowrank",
    }


def _vera(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    return {
        "r": request.rank,
        "vera_dropout": request.dropout,
        "target_modules": request.targets,
        "save_projection": False,
    }


def _ia3(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    names = request.target_names
    # PEFT has the paper's choice (keys, values, the last layer of a block) for the architectures that it knows.
    return (
        {
            "target_modules": names,
            "feedforward_modules": [name for name in names if name in FEEDFORWARD_OUTPUTS],
        }
        if names
        else {}
    )


def _bottleneck(request: AdapterRequest, base: BaseModules) -> Mapping[str, object]:
    return _behind(request, (*base.attention_outputs, *base.feedforward_outputs), excluded=())


def _pfeiffer(request: AdapterRequest, base: BaseModules) -> Mapping[str, object]:
    outputs = base.feedforward_outputs
    # Of "output.dense", "attention.output.dense" is another module.
    excluded = [name for name in base.attention_outputs if matches(name, outputs)]
    return _behind(request, outputs, excluded=excluded)


def _behind(request: AdapterRequest, outputs: Sequence[str], *, excluded: Sequence[str]) -> Mapping[str, object]:
    """Settings of bottlenecks behind the given layers, or behind those that the user names.

    Raises:
        ConfigError: there are none.
    """
    names = request.target_names
    if not (names or outputs):
        raise ConfigError(
            f"method is '{request.method}', and the layers at which the halves of this base's blocks end are not among "
            f"those that plait knows ({', '.join(dict.fromkeys([*ATTENTION_OUTPUTS, *FEEDFORWARD_OUTPUTS]))}): name "
            "them with --target-modules"
        )
    chosen = (
        {"target_modules": names} if names else {"target_modules": [*outputs], "exclude_modules": [*excluded] or None}
    )
    return {"r": request.rank, **chosen}


_PRODUCT = "A and B, separately (fedavg) or as their product (see plait rules)"
_BOTH_SIDES = (
    "both sides of the bottleneck and their biases, separately; inexact, because it is not linear: the ledger has "
    "each round's error"
)
_LORA_OPTIONS = frozenset({Option.RANK, Option.ALPHA, Option.DROPOUT, Option.TARGETS, Option.PATTERN, Option.BIAS})

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="lora",
            title="LoRA (arXiv 2106.09685)",
            peft_type="LORA",
            settings=_lora,
            averages=f"{_PRODUCT}; exact where the rule is",
            subject=Subject.FACTORS,
            options=_LORA_OPTIONS,
            eight_bits=True,
            learning_rate=3e-3,
        ),
        Method(
            name="rslora",
            title="rsLoRA: alpha / sqrt(rank) (arXiv 2312.03732)",
            peft_type="LORA",
            settings=_lora,
            fixed={"use_rslora": True},
            averages=f"{_PRODUCT}; exact where the rule is",
            subject=Subject.FACTORS,
            options=_LORA_OPTIONS,
        ),
        Method(
            name="qlora",
            title="QLoRA: LoRA over a base in four bits, NF4 (arXiv 2305.14314)",
            peft_type="LORA",
            settings=_lora,
            averages=f"{_PRODUCT}; exact where the rule is",
            kept="the base's four bits: every client quantises its own copy the same way",
            subject=Subject.FACTORS,
            options=_LORA_OPTIONS,
            eight_bits=True,
            quantised=True,
            learning_rate=3e-3,
        ),
        Method(
            name="dora",
            title="DoRA (arXiv 2402.09353)",
            peft_type="LORA",
            settings=_lora,
            fixed={"use_dora": True},
            averages=f"{_PRODUCT}, and magnitudes; never exact, because weights are divided by their own norm",
            subject=Subject.FACTORS,
            options=_LORA_OPTIONS,
            learning_rate=3e-3,
        ),
        Method(
            name="lora_xs",
            aliases=("lora-xs", "loraxs"),
            title="LoRA-XS (arXiv 2405.17604), with rule fedsb Fed-SB (arXiv 2502.15436)",
            peft_type="PSOFT",
            settings=_lora_xs,
            averages="the square matrices R; exact",
            kept="A and B: the base's own singular vectors, which every client computes",
            subject=Subject.SQUARES,
            options=frozenset({Option.RANK, Option.DROPOUT, Option.TARGETS}),
            learning_rate=1e-2,
        ),
        Method(
            name="vera",
            title="VeRA (arXiv 2310.11454)",
            peft_type="VERA",
            settings=_vera,
            averages="the two vectors of scales, separately; inexact, because they are multiplied",
            kept="A and B: random, from a seed",
            options=frozenset({Option.RANK, Option.DROPOUT, Option.TARGETS}),
            learning_rate=3e-2,
        ),
        Method(
            name="ia3",
            aliases=("(ia)3",),
            title="IA3 (arXiv 2205.05638)",
            peft_type="IA3",
            settings=_ia3,
            averages="the vectors of scales; exact, because weights are linear in them",
            learning_rate=3e-2,
        ),
        Method(
            name="peanut",
            title="PEANuT: a bottleneck with a non-linearity over each weight (arXiv 2410.01870)",
            peft_type="PEANUT",
            settings=lambda request, base: {
                "r": request.rank,
                "target_modules": request.target_names or list(base.linear),
            },
            averages="both sides of the bottleneck, separately; inexact",
            options=frozenset({Option.RANK, Option.TARGETS}),
        ),
        Method(
            name="bottleneck",
            aliases=("houlsby", "adapter", "adapters"),
            title="Bottleneck adapters behind attention and feedforward layers (arXiv 1902.00751)",
            peft_type=bottleneck.PEFT_TYPE,
            settings=_bottleneck,
            averages=_BOTH_SIDES,
            options=frozenset({Option.RANK, Option.TARGETS}),
        ),
        Method(
            name="pfeiffer",
            title="Bottleneck adapters behind feedforward layers only (arXiv 2005.00247)",
            peft_type=bottleneck.PEFT_TYPE,
            settings=_pfeiffer,
            fixed={"act_fn": "relu"},
            averages=_BOTH_SIDES,
            options=frozenset({Option.RANK, Option.TARGETS}),
        ),
        Method(
            name="prompt",
            aliases=("prompt_tuning", "prompt-tuning"),
            title="Prompt tuning (arXiv 2104.08691)",
            peft_type="PROMPT_TUNING",
            settings=lambda request, _: {
                "num_virtual_tokens": request.virtual_tokens,
                "prompt_tuning_init": "SAMPLE_VOCAB",
            },
            averages="the virtual tokens; a mean of inputs, not of models",
            options=frozenset({Option.TOKENS}),
            learning_rate=3e-2,
        ),
        Method(
            name="prefix",
            aliases=("prefix_tuning", "prefix-tuning"),
            title="Prefix tuning (arXiv 2101.00190)",
            peft_type="PREFIX_TUNING",
            settings=lambda request, _: {"num_virtual_tokens": request.virtual_tokens},
            averages="keys and values before the text; a mean of inputs, not of models",
            options=frozenset({Option.TOKENS}),
            learning_rate=3e-2,
        ),
        Method(
            name="p_tuning",
            aliases=("p-tuning",),
            title="P-tuning (arXiv 2103.10385)",
            peft_type="P_TUNING",
            settings=lambda request, _: {"num_virtual_tokens": request.virtual_tokens, "encoder_hidden_size": 128},
            averages="the prompt's encoder; inexact, for it is not linear. Published as the prompt that it makes",
            options=frozenset({Option.TOKENS}),
        ),
        Method(
            name="full",
            aliases=("full-fine-tuning", "fft"),
            title="All linear and norm weights (arXiv 1602.05629)",
            peft_type="LN_TUNING",
            # PEFT trains a copy of each module that it is given, whatever the module is.
            settings=lambda request, base: {
                "target_modules": request.target_names or [*base.linear, *base.norms],
            },
            averages="the weights themselves; exact",
            kept="embeddings, which are frozen",
            trains_base=True,
            learning_rate=1e-4,
        ),
    )
}
"""By name."""


def is_quantised(name: str) -> bool:
    """Whether the method called `name` holds the base in four bits; False for a name that only another tool knows."""
    try:
        return bool(name) and method_named(name).quantised
    except ConfigError:
        return False


@dataclass(frozen=True)
class _Prompt:
    virtual_tokens: Annotated[int, Field(ge=1, le=4096, description="length of the learned prompt")] = 20


def method_named(text: str) -> Method:
    """The method that `--method` names: one of `METHODS`, or a user's own `Method`; of prompts ``virtual-tokens``.

    Raises:
        ConfigError: there is none, or it has no such option.
    """
    name, options = parse_choice(text)
    method = _method_called(name)
    if not options:
        return method
    has_prompt = Option.TOKENS in method.options
    prompt = with_options(_Prompt() if has_prompt else None, options, what=f"method '{name}'")
    return replace(method, virtual_tokens=prompt.virtual_tokens) if prompt else method


def _method_called(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    meant = name.lower()
    if meant in _ELSEWHERE:
        raise ConfigError(f"method is '{name}', which is not supported: {_ELSEWHERE[meant]}")
    aliased = next((method.name for method in METHODS.values() if meant in (method.name, *method.aliases)), None)
    if aliased:
        raise ConfigError(f"method is '{name}', expected one of {', '.join(METHODS)}; did you mean '{aliased}'?")
    found = find(Kind.METHOD, name, known=METHODS)
    if not isinstance(found, Method):
        raise ConfigError(f"method '{name}' is a {type(found).__name__}, expected a plait.adapters.methods.Method")
    return replace(found, name=name)


def check_options(request: AdapterRequest) -> Method:
    """The requested method, if it has all the options that are set.

    Raises:
        ConfigError: there is no such method, or an option of another one is set.
    """
    method = method_named(request.method)
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
