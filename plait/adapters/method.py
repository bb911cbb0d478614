"""An adapter method: a value, over one of PEFT's configuration types or plait's own; and how modules are named.

To add a method of PEFT, add its `Method`, its name in `METHODS` and, for a new type, a table of permitted settings
to `peft_settings`. Knows no PEFT class: a policy is read before any heavy library is loaded.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from plait.settings.traits import Reasons, Trait
from plait.system.text import Json

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
PROMPTS = frozenset({"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"})
"""PEFT's types of adapters that are a prompt of their own."""
FLAGS = ("act_fn", "use_dora", "use_rslora")
"""What `Method.fixed` of plait's methods sets: it distinguishes methods of one type of PEFT."""


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
    TOKENS = "virtual-tokens"


@dataclass(frozen=True)
class BaseModules:
    """The modules of a base, by the last parts of their names; of a classifier's `heads` the whole names.

    The output layer and a classifier's head are not among the `linear` ones.
    """

    linear: tuple[str, ...]
    norms: tuple[str, ...]
    attention_outputs: tuple[str, ...] = ()
    feedforward_outputs: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdapterRequest:
    """The requested adapter, before it is matched with a base."""

    method: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str = ALL_LINEAR
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

    @property
    def removes(self) -> Reasons:
        """What a run with it does not have (`plait.settings.traits`)."""
        trains = f"'{self.name}' trains {self.subject}"
        kinds = {Trait.FACTORS: Subject.FACTORS, Trait.SQUARES: Subject.SQUARES}
        missing = {trait: trains for trait, subject in kinds.items() if self.subject is not subject}
        if self.peft_type in PROMPTS:
            missing[Trait.SAMPLES] = "completions are sampled without a prompt of its own"
        return missing

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
    }


_PRODUCT = "A and B, separately (fedavg) or as their product (see --rule list)"
LORA = Method(
    name="lora",
    title="LoRA (arXiv 2106.09685)",
    peft_type="LORA",
    settings=_lora,
    averages=f"{_PRODUCT}; exact where the rule is",
    subject=Subject.FACTORS,
    options=frozenset({Option.RANK, Option.ALPHA, Option.DROPOUT, Option.TARGETS}),
    learning_rate=3e-3,
)

RSLORA = replace(
    LORA,
    name="rslora",
    title="rsLoRA: alpha / sqrt(rank) (arXiv 2312.03732)",
    fixed={"use_rslora": True},
    learning_rate=1e-3,
)

QLORA = replace(
    LORA,
    name="qlora",
    title="QLoRA: LoRA over a base in four bits, NF4 (arXiv 2305.14314)",
    kept="the base's four bits: every client quantises its own copy the same way",
    quantised=True,
)

DORA = replace(
    LORA,
    name="dora",
    title="DoRA (arXiv 2402.09353)",
    fixed={"use_dora": True},
    averages=f"{_PRODUCT}, and magnitudes; never exact, because weights are divided by their own norm",
)


MAX_CHARACTERS = 256
"""Of a module's name in a configuration: plain text that matches the end of a full name, at a dot."""
_PEFT_PREFIX = "base_model.model."

# Parts and dots share no character, so matching takes linear time.
_PLAIN = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def is_plain(name: object) -> bool:
    """Whether `name` is a module's name or the end of one: letters, digits, underscores, single dots in between."""
    return isinstance(name, str) and len(name) <= MAX_CHARACTERS and _PLAIN.fullmatch(name) is not None


def in_base(module: str) -> str:
    """The name in the base of a module that an adapter's tensor names have, without the prefix of PEFT's wrapper."""
    return module.removeprefix(_PEFT_PREFIX)


def ends_of(module: str) -> Iterator[str]:
    """All names that match the module called `module`, the longest first."""
    yield module
    for at, character in enumerate(module):
        if character == ".":
            yield module[at + 1 :]


def matches(module: str, names: Iterable[str]) -> bool:
    """Whether one of `names` is `module` or an end of it, at a dot."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def is_in(name: str, modules: Collection[str]) -> bool:
    """Whether a module or a tensor, of a model or of an adapter on it, is one of `modules` or lies in one."""
    return any(f".{module}." in f".{name}." for module in modules)


def is_saved(name: str, modules: Collection[str]) -> bool:
    """Whether PEFT saves a tensor if its settings list `modules`: it compares how names end, and not at dots."""
    parts = name.split(".")
    return any(".".join(parts[:count]).endswith(tuple(modules)) for count in range(1, len(parts)))
