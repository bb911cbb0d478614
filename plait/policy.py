"""What an operator lets servers ask of this machine's data: a client's own limits, from a TOML file or by default.

To add a limit, add a field here and a check where its figure is known.
"""

import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from plait.adapters.method import Option
from plait.adapters.methods import METHODS, method_named
from plait.config import RunConfig
from plait.errors import ConfigError, PolicyError, did_you_mean
from plait.guarantees import Thresholds, groups_for
from plait.plugins import Kind, is_named
from plait.settings.choice import hours_of, parse_choice
from plait.settings.table import parts_of
from plait.system.text import read_toml
from plait.wire.codecs import codec_for

EMBEDDINGS = frozenset({"embed_tokens", "wte", "wpe", "word_embeddings", "embed_in", "tok_embeddings", "shared"})
"""transformers' names of the input embeddings."""
OUTPUTS = frozenset({"lm_head", "embed_out", "output_projection"})
"""transformers' name of the output layer."""

_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Positive = Annotated[int, Field(ge=1, le=2**63 - 1)]


_Names = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists


class Policy(BaseModel, frozen=True):
    """The limits of one client; every default is safe for text that the server must not read."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    consent: Literal["policy", "ask"] = "policy"
    """without a terminal: policy accepts any run within these limits, ask none without consent"""
    methods: _Names = tuple(method.name for method in METHODS.values() if not method.trains_base)
    """adapter methods; full sends changes of all weights"""
    targets: _Names = ()
    """modules that an adapter may touch; if empty, any linear or norm layer in a block"""
    embeddings: bool = False
    """whether it may touch the embeddings, whose changes reveal the tokens of a text"""
    output_layer: bool = False
    """whether it may touch the output layer; a classifier's new head is always allowed"""
    min_examples: _Positive = 8
    """minimum number of different training examples per update"""
    min_tokens: _Positive = 1024
    """minimum number of tokens of different examples per update"""
    min_seq_len: _Positive = 16
    """minimum tokens per training sequence"""
    max_rank: _Positive = 256
    """largest rank of an adapter"""
    max_virtual_tokens: _Positive = 256
    """longest learned prompt"""
    hours: str = ""
    """hours of the day, local time, when a run may begin here, such as 22-6; empty for any"""
    max_runs_per_week: _Count = 0
    """most runs that begin here within seven days; 0 for any number"""
    max_rounds: _Positive = 10_000
    """most rounds of a run, and of all runs of one configuration"""
    max_local_steps: _Positive = 10_000
    """most optimizer steps per round"""
    min_grad_norm: Annotated[float, Field(gt=0)] = 1e-3
    """smallest clipping norm of gradients; tiny ones undo AdamW's protection"""
    max_seq_len: _Positive = 8192
    """most tokens per training sequence; the time of a step grows with its square. If this and the next two are left
    out, they follow from the plan that the operator agrees to on a terminal"""
    max_step_tokens: _Positive = 1 << 20
    """most training tokens per optimizer step"""
    max_tokens: _Positive = 100_000_000
    """most training tokens per round: steps times tokens per step"""
    max_repeats: _Count = 3
    """times per run that a round may be requested again from another adapter, or with other noise, and that any other
    client may be in or out of masked rounds beside this one"""
    dp_max_epsilon: Annotated[float, Field(ge=0)] = 0.0
    """largest epsilon of a run's differential privacy; 0 accepts runs without any. With dp record this client adds the
    noise itself and stops at this epsilon; with dp client the server adds it, so this checks its promise, not its
    noise; under secure-aggregation each client adds its share"""
    dp_unit: Literal["any", "record"] = "any"
    """with dp-max-epsilon: record accepts only noise that this client adds to its own training"""
    dp_max_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """largest delta that goes with it"""
    max_total_epsilon: Annotated[float, Field(ge=0)] = 0.0
    """largest epsilon of all runs together on the same data in the same federation, by this client's own journal; 0 for
    as much as dp-max-epsilon"""
    min_masked_clients: _Positive = 3
    """fewest clients in a masked sum, and fewest in which two sums of the same numbers differ, over all runs on the
    same data in the same federation; all evaluations count as the same numbers"""
    require_secure_aggregation: bool = False
    """take part only in runs with secure aggregation, whose server sees sums over clients alone"""
    max_bits: str = "fp32"
    """most exact encoding of an update: fp32, bf16, or bits per parameter such as 2"""
    max_upload_mb: Annotated[float, Field(gt=0)] = 512.0
    """largest update"""
    max_task_mb: Annotated[float, Field(gt=0)] = 2048.0
    """largest task, which is held in memory"""
    max_download_gb: Annotated[float, Field(ge=0)] = 20.0
    """largest base to download from the hub"""

    @field_validator("max_bits")
    @classmethod
    def _are_bits(cls, value: str) -> str:
        try:
            codec_for(value)
        except ConfigError as error:
            raise ValueError("expected fp32, bf16 or bits per parameter such as 2") from error
        return value

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, value: str) -> str:
        try:
            hours_of(value)
        except ConfigError as error:
            raise ValueError("expected two different hours from 0 to 24, such as 22-6") from error
        return value

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in METHODS and not is_named(Kind.METHOD, name):
                raise ValueError(f"expected some of {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
        return value

    @property
    def max_task_bytes(self) -> int:
        """The largest task, in bytes."""
        return int(self.max_task_mb * 1e6)

    def following(self, config: RunConfig) -> Self:
        """The policy where the operator is shown this plan: what the file leaves open is as large as the plan."""
        return self.model_copy(
            update={name: figure for name, figure in _planned(config).items() if name not in self.model_fields_set}
        )

    def beyond(self, config: RunConfig) -> tuple[str, ...]:
        """The keys that the file leaves open, whose default is less than this plan takes, each with both figures."""
        return tuple(
            f"{name.replace('_', '-')} {figure:,} (by default {default:,})"
            for name, figure in _planned(config).items()
            if name not in self.model_fields_set and figure > (default := cast("int", getattr(self, name)))
        )

    def check_run(self, config: RunConfig) -> None:
        """Refuse (PolicyError) a run whose configuration alone asks for too much; needs neither base nor data."""
        name, _ = parse_choice(config.method)
        if name not in self.methods:
            raise self.refusal("methods", f"the run asks for method '{name}'", ", ".join(self.methods), "add it")
        self.check_targets(parts_of(config.target_modules))
        self._at_most("max-rank", "the run asks for rank", max(config.rank, *config.ranks))
        method = method_named(config.method)
        if Option.TOKENS in method.options:
            self._at_most("max-virtual-tokens", "the run asks for virtual tokens:", method.virtual_tokens)
        self._at_most("max-rounds", "the run asks for rounds:", config.rounds)
        self.at_least("min-seq-len", "the run asks for sequence length", config.seq_len)
        self.at_least("min-grad-norm", "the run asks for max-grad-norm", config.max_grad_norm)
        planned = _planned(config)
        self._at_most("max-seq-len", "the run asks for sequence length", config.seq_len)
        self._at_most("max-step-tokens", "the run asks for tokens per optimizer step:", planned["max_step_tokens"])
        if not config.epochs:  # else a client's data decide, before it trains
            self.check_work(steps=config.most_steps, tokens=planned["max_tokens"])
        if self.most_epsilon_of_run:
            self._check_privacy(config)
        if self.require_secure_aggregation or config.secure_aggregation:
            self._check_masks(config)
        if not config.epochs:
            # Limits that no data can satisfy are reported before a base is downloaded.
            examples = config.most_steps * config.batch_size * config.gradient_accumulation_steps
            covers = "the run asks for updates that cover at most this many"
            self.at_least("min-examples", f"{covers} examples:", examples)
            self.at_least("min-tokens", f"{covers} tokens:", planned["max_tokens"])
        if codec_for(config.bits).bits > codec_for(self.max_bits).bits:
            asked, allowed = f"the run asks for bits '{config.bits}'", f"'{self.max_bits}' at most"
            raise self.refusal("max-bits", asked, allowed, f"set it to '{config.bits}'")

    def check_time(self, now: datetime) -> None:
        """Refuse a run that begins at another time."""
        if now.hour not in hours_of(self.hours):
            raise self.refusal("hours", f"the run begins at {now:%H:%M}", self.hours, "widen them")

    @property
    def most_epsilon(self) -> float:
        """Largest epsilon of all runs together; 0 for any."""
        return self.max_total_epsilon or self.dp_max_epsilon

    @property
    def most_epsilon_of_run(self) -> float:
        """Largest epsilon of a run; 0 for any."""
        return self.dp_max_epsilon or self.max_total_epsilon

    def _check_privacy(self, config: RunConfig) -> None:
        """Refuse a run whose guarantee is not what the policy asks for."""
        limit = self.most_epsilon_of_run
        unit, epsilon, delta = config.dp, config.dp_epsilon, config.dp_delta
        key = "dp-max-epsilon" if self.dp_max_epsilon else "max-total-epsilon"
        most = f"epsilon of at most {limit:g}"
        if unit == "off":
            raise self.refusal(key, "the run has no differential privacy", most, "set it to 0")
        if self.dp_unit == "record" and unit != "record":
            how = "so that the server is to add the noise"
            if config.secure_aggregation:
                how = "under which clients are hidden, not records"
            raise self.refusal("dp-unit", f"dp of the run is '{unit}', {how}", "dp record", "set it to 'any'")
        if not 0 < delta <= self.dp_max_delta:
            allowed = f"at most {self.dp_max_delta:g}"
            raise self.refusal("dp-max-delta", f"the run has delta {delta:g}", allowed, f"set it to {delta:g} or more")
        if epsilon > limit:
            asked = f"the run may spend epsilon {epsilon:.4g} at delta {delta:g}"
            raise self.refusal(key, asked, most, f"set it to {math.ceil(100 * epsilon) / 100:g} or more")

    def _check_masks(self, config: RunConfig) -> None:
        """Refuse a run whose server would see this client's own update, if it may not, or sums of too few clients."""
        is_masked = config.secure_aggregation
        if self.require_secure_aggregation and not is_masked:
            raise self.refusal(
                "require-secure-aggregation",
                "the run has no secure aggregation, so its server would see this client's own update",
                "masked runs alone",
                "leave --require-secure-aggregation out and set it to false",
            )
        if is_masked:
            asked = "the run asks for masked sums of as few clients as"
            self.at_least("min-masked-clients", asked, fewest(config))

    def check_targets(self, modules: Iterable[str]) -> None:
        """Refuse modules that the adapter may not touch."""
        for module in modules:
            leaf = module.rsplit(".", 1)[-1]
            if leaf == "all-linear":
                continue
            if leaf in EMBEDDINGS:
                self._check_allowed("embeddings", module)
            if leaf in OUTPUTS:
                self._check_allowed("output-layer", module)
            if self.targets and not any(module == name or module.endswith(f".{name}") for name in self.targets):
                raise self.refusal(
                    "targets", f"the run asks for an adapter on '{module}'", ", ".join(self.targets), "add it"
                )

    def check_outside_blocks(self, tensor: str) -> None:
        """Refuse a tensor on the embeddings or the output layer, where the adapter may not touch them."""
        is_embedding = "lora_embedding_" in tensor or not EMBEDDINGS.isdisjoint(tensor.split("."))
        self._check_allowed("embeddings" if is_embedding else "output-layer", tensor)

    def _check_allowed(self, key: Literal["embeddings", "output-layer"], module: str) -> None:
        if not (self.embeddings if key == "embeddings" else self.output_layer):
            allowed = "none on embeddings" if key == "embeddings" else "none on that layer"
            raise self.refusal(key, f"the run asks for an adapter on '{module}'", allowed, "set it to true")

    def check_work(self, *, steps: int, tokens: int) -> None:
        """Refuse rounds that train for too long."""
        self._at_most("max-local-steps", "the run asks for local steps:", steps)
        self._at_most("max-tokens", "the run asks for tokens per round:", tokens)

    def check_coverage(self, *, examples: int, tokens: int) -> None:
        """Refuse to train on so little data that the update would reveal single texts."""
        self.at_least("min-examples", "different examples that an update would cover:", examples)
        self.at_least("min-tokens", "tokens that an update would cover:", tokens)

    def check_upload(self, size_bytes: float) -> None:
        """Refuse to send an update of this size."""
        if size_bytes > self.max_upload_mb * 1e6:
            size = f"{size_bytes / 1e6:.3g}"
            allowed = f"at most {self.max_upload_mb:g}"
            raise self.refusal("max-upload-mb", f"an update has {size} MB", allowed, f"set it to {size} or more")

    def check_download(self, what: str, size_bytes: int) -> None:
        """Refuse to download a base of this size."""
        if size_bytes <= self.max_download_gb * 1e9:
            return
        asked, allowed, size = f"{what} is not available here", "no downloads", "the size allowed"
        if self.max_download_gb:
            size = f"{size_bytes / 1e9:.3g}"
            asked, allowed = f"{what} has {size} GB to download", f"at most {self.max_download_gb:g}"
            size += " or more"
        raise self.refusal("max-download-gb", asked, allowed, f"set it to {size}, or give --base DIRECTORY")

    def _at_most(self, key: str, what: str, value: float) -> None:
        most = cast("float", getattr(self, key.replace("-", "_")))
        if value > most:
            raise self.refusal(key, f"{what} {value:,}", f"at most {most:,}", f"set it to {value} or more")

    def at_least(self, key: str, what: str, value: float) -> None:
        """Refuse (PolicyError) a value below a limit; `what` the run asks for is in words that the value follows."""
        least = cast("float", getattr(self, key.replace("-", "_")))
        if value < least:
            raise self.refusal(key, f"{what} {value:,}", f"at least {least:,}", f"set it to {value} or less")

    @staticmethod
    def refusal(key: str, asked: str, allowed: str, remedy: str) -> PolicyError:
        """The error for a run that asks for too much, and how to allow it."""
        return PolicyError(
            f"{asked}, but {key} of this client's policy allows {allowed}; "
            f"to take part, {remedy} in the file given with --policy"
        )


def _planned(config: RunConfig) -> dict[str, int]:
    """How much a plan trains at once, by the key that limits it."""
    batch = config.batch_size * config.gradient_accumulation_steps
    batch *= config.dp_group_records if config.private_group else 1
    step_tokens = batch * config.seq_len * config.learned.sequences
    return {
        "max_seq_len": config.seq_len,
        "max_step_tokens": step_tokens,
        **({} if config.epochs else {"max_tokens": config.most_steps * step_tokens}),
    }


def load_policy(path: Path | None) -> Policy:
    """A policy from a TOML file, the default without one; ConfigError if it is not valid."""
    if path is None:
        return Policy()
    try:
        table = read_toml(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read policy '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"policy '{path}' is not TOML: {error}") from error
    known = [name.replace("_", "-") for name in Policy.model_fields]
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known) or f", expected one of: {', '.join(known)}"
            raise ConfigError(f"policy '{path}': unknown key {key!a}{hint}")
    try:
        return Policy.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        raise ConfigError(f"policy '{path}': {first['loc'][0]} is {first['input']!a}, {message}") from error


def fewest(config: RunConfig) -> int:
    """The fewest clients in a sum of a run."""
    # With noise, clients do not evaluate.
    invited, evaluators = config.cohort_size, config.eval_clients if config.evaluates else 0
    groups = 1 if config.dp == "client" else groups_for(invited)
    return min(Thresholds.of(invited, groups).survivors, Thresholds.of(evaluators or invited).survivors)
