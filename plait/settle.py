"""Fill in the defaults that depend on method, rule and cohort, and name the parts of a run.

Needs no base and no data, so impossible settings are refused within a second. `plait.run` does the rest.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from plait.adapters import AdapterTask, Subject
from plait.adapters.method import Method
from plait.adapters.methods import method_named
from plait.aggregation import (
    Rule,
    ServerOptimizer,
    method_stated,
    optimizer_for,
    optimizer_stated,
    rule_named,
    rule_stated,
)
from plait.aggregation.server_step import LineSearch
from plait.composition import plan_of, settled_by_parts, task_settings
from plait.config import RunConfig, Scalar
from plait.flower import ALL_RULES
from plait.ledger.events import DataUsed
from plait.ledger.watch import Watch
from plait.objectives import SFT
from plait.plugins import source_of, was_found
from plait.rounds.run_plan import RunPlan, TaskSettings
from plait.rounds.spool import Weighting
from plait.rounds.validate import NormBound
from plait.settings.choice import parse_choice
from plait.settings.tables import PERSONALIZATION_NEEDS
from plait.settings.traits import Stated, Trait, check, taken
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for
from plait.wire.settings import CROSS_ENTROPY, Settings

if TYPE_CHECKING:
    from plait.plugin_search import PluginSource

# How far a client's personalized adapter goes towards its own steps (simulations/rules).
_PERSONALIZED = 0.35
# With fewer steps a classifier's learning rate may fall before it has done its work (simulations/defaults).
_STEPS_TO_FALL = 20
# Of an update's norm, as a multiple of the median.
_NORM_BOUND = "10"
# Attempts at a round that falls below its quorum.
_ROUND_ATTEMPTS = 3
# Of a learning rate that a first step found (simulations/defaults).
_LARGEST_FACTOR = 2.0
# Of a square matrix in a first step; bits per parameter of a wire whose noise leaves half of it.
_LARGEST_CHANGE, _COARSE = 0.25, 2.0
# Minimum held-out sequences: of all clients together, the same with classes (one label each), of each client.
_LEAST_EVALUATED, _LEAST_LABELLED, _LEAST_OF_ONE = 64, 256, 4
# Records from which on a client has a judge part.
_JUDGED_FROM = 200
# A step is taken back before the next round begins, and where losses are compared client by client.
_COMPARED = {Trait.FIGURES, Trait.WAITS}
_FEW = 8  # clients that evaluate without being sampled


@dataclass(frozen=True)
class ResolvedConfig:
    """The complete settings of a run, and the parts that they name."""

    config: RunConfig
    method: Method
    rule: Rule
    optimizer: ServerOptimizer
    codec: Codec
    new_factors: bool
    data: DataUsed | None = None
    given: RunConfig = field(default_factory=RunConfig)  # before what was open in them was filled in

    @property
    def derived(self) -> tuple[str, ...]:
        """The keys of the settings that were filled in."""
        given = self.given.to_table()
        return tuple(sorted(key for key, value in self.config.to_table().items() if given.get(key) != value))

    @property
    def plugins(self) -> "tuple[PluginSource, ...]":
        """The user's own parts among them, as they are here."""
        named = [(kind, parse_choice(text)[0]) for kind, text in self.config.parts if text]
        own = [part for part in named if was_found(*part)]
        if not own:
            return ()

        return tuple(source_of(*part) for part in own)

    @property
    def announced(self) -> dict[str, Scalar]:
        """The settings for a server to announce: a rule that clients need not have is stated by its traits."""
        table = self.config.to_table()
        if self.rule.name in ALL_RULES:
            return table
        from plait.aggregation.own_rule import stated_text

        return table | {"rule": stated_text(self.rule)}

    @property
    def task(self) -> AdapterTask:
        """Classification where there are labels, else a language model."""
        return AdapterTask.CLASSIFICATION if self.config.label_names else AdapterTask.CAUSAL_LM

    @property
    def tasks(self) -> TaskSettings:
        """The settings of all tasks."""
        return TaskSettings(self.plan, self.rule, new_factors=self.new_factors)

    @property
    def plan(self) -> RunPlan:
        """What the round loop needs."""
        config = self.config
        plan = RunPlan(
            rounds=config.rounds,
            clients=config.clients,
            cohort_size=config.cohort_size,
            eval_every=config.eval_every,
            eval_clients=config.eval_clients,
            quorum=math.ceil(config.quorum * config.cohort_size),
            deadline_s=config.deadline_s or None,
            attempts=_ROUND_ATTEMPTS,
            norm_bound=NormBound.named(config.norm_bound),
            weighting=Weighting(config.weighting),
            keep_updates=config.keep_updates,
            starts_anew=not config.init_adapter,
            watch=Watch(
                config.select,
                config.select_by,
                take_back=config.select != "last" and _COMPARED.isdisjoint(config.missing),
            ),
            seed=config.seed,
            settings=_task_settings(config, self.method, self.rule),
        )
        return plan_of(plan, config)


def settle(config: RunConfig) -> ResolvedConfig:
    """Fill in the settings that are open; settings that are complete do not change.

    Raises:
        ConfigError: there is no such method, rule, server optimizer or wire, or two of them are incompatible.
    """
    given, codec, method = config, codec_for(config.bits), method_named(config.method)
    if (config.loss, config.objective, config.eval_metrics) != (CROSS_ENTROPY, SFT, ""):
        from plait.training.own_functions import check_functions  # brings torch along

        check_functions(config.loss, config.objective, config.eval_metrics)
    rule = rule_named(config.rule, ALL_RULES)
    parts = (
        rule_stated(rule, config.rule, one_rank=config.one_rank, others=ALL_RULES),
        method_stated(method, config.method),
    )
    check((*config.stated(), *parts))
    missing = taken((*config.stated(), *parts))
    left: dict[str, object] = {
        "learning_rate": _learning_rate(config, method, codec, missing),
        "lr_schedule": _schedule(config, rule, missing),
        "personalize": _personalize(config, missing),
        "eval_clients": config.eval_clients or _evaluators(config, missing),
        "judge_part": _judge_part(config, missing),
    }
    config = config.model_copy(update=left)
    left = {"max_held_out_sequences": config.max_held_out_sequences or _held_out_sequences(config)}
    config = config.model_copy(update={**left, **_server_step(config, missing), **_checks(config, missing)})
    config = settled_by_parts(config)
    optimizer = optimizer_for(config.server_optimizer)
    check((*config.stated(), *parts, optimizer_stated(optimizer, config.server_optimizer)))
    return ResolvedConfig(
        config, method, rule, optimizer, codec, rule.new_factors(one_rank=config.one_rank), given=given
    )


def settle_on_data(config: RunConfig, *, partition: str, labels: str, data: DataUsed) -> ResolvedConfig:
    """What `settle` does, with the data known: their classes decide the schedule."""
    given = {"partition": partition, "labels": config.labels or labels}
    return replace(settle(config.model_copy(update=given)), data=data, given=config)


def _evaluators(config: RunConfig, missing: Collection[Trait]) -> int:
    """Clients that evaluate: all if they meet in every round or are few (0), else as many as train in one.

    An interval narrows with the sequences, of which each then evaluates more: fewer clients cost it nothing, and an
    evaluation of all would be the larger half of a run's bytes and time.
    """
    if _all_meet(config, missing) or Trait.LOSSES in missing:
        return 0
    sample = max(config.cohort_size, _FEW)
    return sample if sample < config.clients else 0


def _held_out_sequences(config: RunConfig) -> int:
    """Enough to take about a third of the training time between two evaluations.

    Evaluating a sequence is one forward pass, training on it costs about three. The minimum keeps the figure meaningful
    however short the training is: a classifier's sequence has one label where a language model's has hundreds.
    """
    trained = config.local_steps * config.batch_size * config.gradient_accumulation_steps
    trained *= min(config.eval_every, config.rounds)
    evaluators = min(config.eval_clients or config.clients, config.clients)
    # Neither all clients together (in a simulation) nor the one that evaluates (in a deployment) takes longer.
    affordable = trained * min(config.cohort_size, evaluators) // evaluators
    least = _LEAST_LABELLED if config.label_names else _LEAST_EVALUATED
    return min(max(affordable, math.ceil(least / evaluators), _LEAST_OF_ONE), 2**32 - 1)


def _judge_part(config: RunConfig, missing: Collection[Trait]) -> int:
    if config.judge_part != "auto":
        return config.judge_part
    # Under masks the server may not know who has one.
    return 0 if {Trait.LOSSES, Trait.FIGURES} & {*missing} else _JUDGED_FROM


def _learning_rate(config: RunConfig, method: Method, codec: Codec, missing: Collection[Trait]) -> float:
    """0 if every client finds its own, from the slope that its first step measures."""
    if config.learning_rate or Trait.SLOPES in missing:
        return config.learning_rate or method.learning_rate_at(config.rank)
    # A square matrix begins at the identity, and AdamW's first step has one size everywhere: it changes singular values
    # by up to rate times rank. A quarter of them is reached before a quarter of the loss, at which runs ended worse
    # than the base. Coarse wires add noise of their own.
    if method.subject is Subject.SQUARES:
        return _LARGEST_CHANGE / config.rank / (1 if codec.bits > _COARSE else 2)
    return 0.0


def _schedule(config: RunConfig, rule: Rule, missing: Collection[Trait]) -> str:
    if config.lr_schedule != "auto":
        return config.lr_schedule
    has_own_pace = Trait.SLOPES not in missing and not rule.keeps_nearest
    if config.learning_rate > 0 or not has_own_pace:
        return "constant"
    # A batch has few labels: at its full rate a classifier still rises and falls in the last rounds.
    is_long = config.rounds * config.local_steps >= _STEPS_TO_FALL
    return "linear" if config.label_names and is_long else "slope"


def _found_rate_factor(config: RunConfig, method: Method, rule: Rule) -> float:
    """What multiplies the learning rate that a client's first step found, before slopes change it.

    The mean of n clients' updates has an n-th of their variance, as a batch n times as large would have, for which
    AdamW's rate grows with the square root of n (Malladi et al., arXiv 2205.10287). In `simulations/defaults` three
    times gained more on some texts and lost on others, methods that train no factors lost by twice already, and so did
    Krum, which takes one update. Other robust rules and asynchronous rounds were not tried.
    """
    is_mean = not rule.needs_all and Trait.WAITS not in config.missing
    if config.lr_schedule != "slope" or method.subject is not Subject.FACTORS or not is_mean:
        return 1.0
    return min(_LARGEST_FACTOR, math.sqrt(config.cohort_size))


def _carries_moments(config: RunConfig, rule: Rule) -> bool:
    """Whether AdamW's moments continue: if factors do, and every client takes part in the next round."""
    goes_on = not rule.new_factors(one_rank=config.one_rank)
    comes_again = config.cohort_size == config.clients
    return goes_on and comes_again and not config.trainer


def _personalize(config: RunConfig, missing: Collection[Trait]) -> float:
    if config.personalize != "auto":
        return config.personalize
    is_sound = PERSONALIZATION_NEEDS.keys().isdisjoint(missing)
    return _PERSONALIZED if is_sound and _all_meet(config, missing) and config.clients > 1 else 0.0


def _all_meet(config: RunConfig, missing: Collection[Trait]) -> bool:
    """Whether every client takes part in every round."""
    return config.cohort_size == config.clients and Trait.WAITS not in missing


def _checks(config: RunConfig, missing: Collection[Trait]) -> dict[str, str]:
    """Checks of updates and steps, where the server can make them."""
    # Where an update has its noise already, how long it is tells nothing.
    bound = (
        "off" if Trait.SINGLE_UPDATES in missing else _NORM_BOUND if config.norm_bound == "auto" else config.norm_bound
    )
    # Nothing is known of an adapter that nobody evaluates.
    return {"norm_bound": bound} | ({"select": "last"} if Trait.LOSSES in missing else {})


def _server_step(config: RunConfig, missing: Collection[Trait]) -> dict[str, object]:
    if config.server_optimizer != "auto":
        return {}
    # Clients can say how long the server's steps should be where all train alike, and for a step that is their mean.
    searched = {*LineSearch.needs, Trait.LINEAR, Trait.ALL_SHARED, Trait.ONE_RANK, Trait.SAME_SIDES}
    is_searched = searched.isdisjoint(missing) and _all_meet(config, missing) and not config.trainer
    return {"server_optimizer": LineSearch.name if is_searched else "none"}


def _task_settings(config: RunConfig, method: Method, rule: Rule) -> Settings:
    """The settings of every task; round and steps done are filled in for each task."""
    same: dict[str, Any] = {
        each.name: getattr(config, each.name) for each in fields(Settings) if each.name in RunConfig.model_fields
    }
    derived: dict[str, Any] = {
        "total_steps": config.rounds * config.local_steps,
        "round_epochs": config.epochs / config.rounds,
        "found_rate_factor": _found_rate_factor(config, method, rule),
        "carry_moments": _carries_moments(config, rule),
        "personalize": config.given_personalize,
        "proximal": config.proximal,
        "measures_slope": config.server_optimizer == LineSearch.name,
    }
    return task_settings(Settings(**{**same, **derived}), config)


def check_vouched_for(settled: ResolvedConfig) -> None:
    """Refuse a run that needs an authority over clients' keys where there is none."""
    unvouched = {Trait.VOUCHED: "no authority vouches for the clients' keys here"}
    check(
        (
            *settled.config.stated(),
            Stated("kit", "none", removes=unvouched, instead="plait server with --kit, or plait simulate"),
        )
    )
