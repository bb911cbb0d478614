"""From the configuration to the values that the rooms take; the only place where one becomes the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from plait.adapters import AdapterSpec, Task
from plait.aggregation import (
    RULES,
    Geometry,
    Rule,
    ServerOptimizer,
    check_composition,
    check_rule,
    geometry_of,
    optimizer_for,
    rule_named,
)
from plait.choice import parse_choice
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.policy import EMBEDDINGS, Policy, bits_of
from plait.rounds.broadcasts import TURNED_BITS
from plait.rounds.checkpoint import KEPT as CHECKPOINTS_KEPT
from plait.rounds.coordinator import RunPlan
from plait.rounds.error_feedback import leads
from plait.rounds.folding import Weighting
from plait.rounds.norm_bound import NormBound, NormPolicy
from plait.rounds.task_settings import TaskSettings
from plait.rounds.terms import Terms
from plait.rounds.tracks import RankedAdapter, Ranks
from plait.training.blueprint import HEADS, Blueprint, base_modules, design, read_base_config
from plait.training.methods import AdapterRequest, BaseModules, check_method_and_rule, method_of
from plait.wire.codecs import codec_for
from plait.wire.settings import Settings

_FEW_CLIENTS = 3
# How far a client's own adapter goes towards where its own steps lead (simulations/rules).
_OWN_SHARE = 0.35
# Held-out sequences of all clients together, and of each, however short the training is.
_LEAST_JUDGED, _LEAST_OF_ONE = 64, 4


def settled(config: RunConfig) -> RunConfig:
    """The settings with what was left to method, rule and cohort filled in.

    Raises:
        ConfigError: there is no such method or wire.
    """
    codec_for(config.wire)
    rate = config.learning_rate or method_of(config.method).learning_rate_at(config.rank)
    left = {
        "learning_rate": rate,
        "moments": _moments(config),
        "own_share": _own_share(config),
        "max_held_out_sequences": config.max_held_out_sequences or _held_out_sequences(config),
    }
    return config.model_copy(update={**left, **_server_step(config)})


def _held_out_sequences(config: RunConfig) -> int:
    """As many as take about a third of the time of the training between two evaluations.

    Judging a sequence is a forward pass, training on it is about three. The figure has to mean something however little
    is trained, hence the least.
    """
    trained = config.local_steps * config.batch_size * config.gradient_accumulation_steps
    trained *= min(config.eval_every, config.rounds)
    judging = min(config.eval_clients or config.clients, config.clients)
    # Neither all clients together (in a simulation) nor the one that judges (in a deployment) takes longer.
    affordable = trained * min(config.cohort_size, judging) // judging
    return min(max(affordable, math.ceil(_LEAST_JUDGED / judging), _LEAST_OF_ONE), 2**32 - 1)


def _moments(config: RunConfig) -> str:
    if config.moments != "auto":
        return config.moments
    rule = _rule_if_ours(config)
    # Flower's own strategies step in the factors as they are.
    goes_on = rule is None or not factors_turn(config, rule)
    return "carry" if goes_on and _all_meet(config) and not (config.trainer or config.scaffold) else "fresh"


def _own_share(config: RunConfig) -> float:
    if config.own_share != "auto":
        return config.own_share
    rule = _rule_if_ours(config)
    are_several = config.clients > 1 and not config.scaffold
    return _OWN_SHARE if rule and _can_have_own(rule) and _all_meet(config) and are_several else 0.0


def _rule_if_ours(config: RunConfig) -> Rule | None:
    return RULES.get(parse_choice(config.rule)[0])


def _can_have_own(rule: Rule) -> bool:
    """Whether clients can have adapters of their own beside the shared one: it is the sum of what they moved."""
    return rule.linear and rule.continuous and rule.personal is None


def _all_meet(config: RunConfig) -> bool:
    """Whether every client takes part in every round."""
    return config.cohort_size == config.clients and not config.over_selection


def _server_step(config: RunConfig) -> dict[str, object]:
    if config.server_optimizer != "auto":
        return {}
    if (config.server_learning_rate, config.server_momentum) != (1.0, 0.0):
        return {"server_optimizer": "sgd"}
    rule = _rule_if_ours(config)
    rate = rule.server_learning_rate if rule and not config.scaffold and config.cohort_size >= _FEW_CLIENTS else 1.0
    if rate != 1.0:
        return {"server_optimizer": "sgd", "server_learning_rate": rate}
    return {"server_optimizer": "none"}


def settings_of(config: RunConfig) -> Settings:
    """What every task tells a client; round, seed and steps done are filled in for each task."""
    config = settled(config)
    return Settings(
        local_steps=config.local_steps,
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        seq_len=config.seq_len,
        learning_rate=config.learning_rate,
        lr_schedule=config.lr_schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        held_out_fraction=config.held_out_fraction,
        max_held_out_sequences=config.max_held_out_sequences,
        seed=config.seed,
        round=0,
        done_steps=0,
        total_steps=config.rounds * config.local_steps,
        wire=config.wire,
        proximal=config.proximal,
        carry_moments=config.moments == "carry",
        own_share=config.given_own_share,
        scaffold=config.scaffold,
    )


def plan_of(config: RunConfig) -> RunPlan:
    """What the round loop needs."""
    return RunPlan(
        rounds=config.rounds,
        clients=config.clients,
        cohort_size=config.cohort_size,
        eval_every=config.eval_every,
        eval_clients=config.eval_clients,
        quorum=math.ceil(config.quorum * config.cohort_size),
        deadline_s=config.deadline_s or None,
        over_selection=config.over_selection,
        attempts=config.round_attempts,
        norm_bound=NormBound(NormPolicy(config.norm_policy), config.norm_bound),
        weighting=Weighting(config.weighting),
        keep_updates=config.keep_updates,
        seed=config.seed,
        settings=settings_of(config),
    )


def terms_of(
    config: RunConfig, base_directory: Path, rule: Rule, *, client: str, max_rank: int = 0, policy: Policy | None = None
) -> Terms:
    """What a client agrees to when it takes part in a run of this configuration.

    Args:
        config: as it was told.
        base_directory: of the base.
        rule: of the run.
        client: its name.
        max_rank: the largest rank that it takes; 0 for any.
        policy: its operator's; None for no limits.

    Raises:
        ConfigError: the base cannot carry the run's adapter.
        PolicyError: the run asks for more than the policy allows.
    """
    if policy:
        policy.check_run(config)
    ranks = ranks_of(config, base_directory, rule)
    largest, own = (ranks.adapters[ranks.track_for(rank)].spec for rank in (0, max_rank))
    if policy:
        _check_reach(policy, own, base_modules(read_base_config(base_directory, own.task, own.labels), own.task))
        policy.check_upload(own.layout.size * bits_of(config.wire) / 8)
    tasks = TaskSettings(settings_of(config), config.rounds, config.seed, rule, turns=factors_turn(config, rule))
    return Terms(client, tasks, (largest, own), own, policy)


def _check_reach(policy: Policy, spec: AdapterSpec, base: BaseModules) -> None:
    """Refuse an adapter with a tensor on a module that the policy does not allow, whatever the module is called."""
    in_blocks = {*base.linear, *base.norms}
    for name in spec.layout.by_name:
        parts = name.split(".")
        module = next((part for part in parts if part in in_blocks), "")
        if module:
            policy.check_targets([name[: name.index(module) + len(module)]])
        elif not (name.startswith("prompt_") or (spec.task is Task.CLASSIFICATION and HEADS.intersection(parts))):
            is_embedding = "lora_embedding_" in name or EMBEDDINGS.intersection(parts)
            if is_embedding and not policy.embeddings:
                raise policy.refuse_embeddings(name)
            if not is_embedding and not policy.output_layer:
                raise policy.refuse_output_layer(name)


def task_of(config: RunConfig) -> Task:
    """Classification where there are labels, else a language model."""
    return Task.CLASSIFICATION if config.label_names else Task.CAUSAL_LM


def rule_of(config: RunConfig, rules: Mapping[str, Rule]) -> Rule:
    """The rule that is asked for.

    Args:
        config: of the run.
        rules: all that there are, by name.

    Raises:
        ConfigError: there is no such rule, or it cannot go with other settings.
    """
    rule = rule_named(config.rule, rules)
    for setting, is_set in (("moments is carry", config.moments == "carry"), ("scaffold is true", config.scaffold)):
        if is_set and factors_turn(config, rule):
            to_whom = "" if rule.turns(one_rank=True) else " to clients of several ranks"
            raise ConfigError(
                f"{setting} but rule '{rule.name}' gives other factors{to_whom} in every round, so nothing of the "
                "round before can be carried over"
            )
    if config.scaffold and rule.trained(1) != rule.trained(2):
        raise ConfigError(f"scaffold is true but rule '{rule.name}' trains other factors in every round")
    if config.given_own_share and not _can_have_own(rule):
        raise ConfigError(
            f"own-share is {config.own_share} but rule '{rule.name}' does more than add up what clients moved, "
            "expected a linear one that keeps nothing at clients, such as fedavg (plait rules lists them)"
        )
    return rule


def factors_turn(config: RunConfig, rule: Rule) -> bool:
    """Whether factors are other ones in every round of this run."""
    return rule.turns(one_rank=_one_rank(config))


@dataclass(frozen=True)
class CopiesOnDisk:
    """What a run keeps on disk, in float32 values for each parameter of the adapter.

    Attributes:
        client: at a client while the run lasts, beside the adapter itself.
        client_after: the same once the run is over.
        server: in the run directory, the published adapter among them.
    """

    client: float
    client_after: float
    server: float


def copies_on_disk(config: RunConfig, rule: Rule, geometry: Geometry) -> CopiesOnDisk:
    """What clients and server keep. What moves the base, and what a rule itself remembers, comes on top.

    Every value that a client carries from round to round is there twice: as the newest round began, and as it ended.
    """
    config = settled(config)
    codec = codec_for(config.wire)
    lag = 0 if not codec.distortion else 2 if leads(codec) else 1  # what is owed, and where the adapter is drifting
    own = float(bool(config.given_own_share))
    if rule.personal:
        own = geometry.side_size(rule.personal) / geometry.layout.size
    owed = 0 if factors_turn(config, rule) else lag
    moments = 2 if config.moments == "carry" else 0
    drift = 2 if config.scaffold else 0
    optimizer = optimizer_of(config, rule).copies
    bits = max(bits_of(config.wire), TURNED_BITS if factors_turn(config, rule) else 0)
    return CopiesOnDisk(
        client=2 * (own + owed + moments + drift),
        client_after=own,
        server=1 + CHECKPOINTS_KEPT * (1 + max(lag, 1) + optimizer + bits / 32),
    )


def _one_rank(config: RunConfig) -> bool:
    return set(config.ranks) == {config.rank}


def optimizer_of(config: RunConfig, rule: Rule) -> ServerOptimizer:
    """The server optimizer that is asked for.

    Raises:
        ConfigError: there is no such optimizer, or it means nothing after this rule.
    """
    config = settled(config)
    optimizer = optimizer_for(
        config.server_optimizer, learning_rate=config.server_learning_rate, momentum=config.server_momentum
    )
    check_composition(rule, optimizer, one_rank=_one_rank(config))
    return optimizer


def ranks_of(config: RunConfig, base_directory: Path, rule: Rule) -> Ranks:
    """The adapters of the federation: the server's, and one for every lower rank that clients have.

    Raises:
        ConfigError: the base cannot carry them, or the rule cannot work on them.
    """
    check_method_and_rule(method_of(config.method), rule, mixed_ranks=len(set(config.ranks)) > 1)
    lower = sorted({rank for rank in config.ranks if rank != config.rank}, reverse=True)
    blueprints = {
        rank: blueprint_of(config, base_directory, rank=rank, init_rank=0 if rank == config.rank else config.rank)
        for rank in (config.rank, *lower)
    }
    adapters = tuple(
        RankedAdapter(rank, blueprint.spec, geometry_of(blueprint.spec), blueprint.initial)
        for rank, blueprint in blueprints.items()
    )
    ranks = Ranks(adapters, handing=rule.handing, clients_have_masters=config.rank in config.ranks)
    check_rule(rule, ranks.master.geometry, cohort=ranks.cohort, clients=config.cohort_size)
    return ranks


def blueprint_of(
    config: RunConfig, base_directory: Path, *, rank: int | None = None, init_rank: int = 0, weights: bool = True
) -> Blueprint:
    """The adapter that is asked for, on the base in this directory.

    Args:
        config: of the run.
        base_directory: of the base.
        rank: another one than the configuration's.
        init_rank: see `AdapterSpec.init_rank`.
        weights: whether the base's weights are there; without them initial values that follow from them are zeros.

    Raises:
        ConfigError: the base cannot carry it.
    """
    request = AdapterRequest(
        method=config.method,
        rank=rank or config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        target_modules=config.target_modules,
        rank_pattern=config.module_ranks,
        bias=config.bias,
        virtual_tokens=config.virtual_tokens,
    )
    return _designed(base_directory, request, task_of(config), config.label_names, config.seed, init_rank, weights)


# The command asks to see that it can be done, the server of its run asks again: PEFT takes a while to build an adapter.
@lru_cache(maxsize=8)
def _designed(
    directory: Path,
    request: AdapterRequest,
    task: Task,
    labels: tuple[str, ...],
    seed: int,
    init_rank: int,
    weights: bool,
) -> Blueprint:
    return design(
        read_base_config(directory, task, labels),
        request,
        task=task,
        labels=labels,
        seed=seed,
        init_rank=init_rank,
        weights=directory if weights else None,
    )
