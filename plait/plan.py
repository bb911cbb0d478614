"""From the configuration to the values that the rooms take; the only place where one becomes the other."""

from __future__ import annotations

import math
from pathlib import Path

from plait.adapters import Task
from plait.config import RunConfig
from plait.rounds.coordinator import RunPlan
from plait.training.blueprint import Blueprint, design, read_base_config
from plait.training.methods import AdapterRequest
from plait.wire.settings import Settings


def settings_of(config: RunConfig) -> Settings:
    """What every task tells a client; round, seed and steps done are filled in for each task."""
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
        seed=config.seed,
        settings=settings_of(config),
    )


def task_of(config: RunConfig) -> Task:
    """Classification where there are labels, else a language model."""
    return Task.CLASSIFICATION if config.label_names else Task.CAUSAL_LM


def blueprint_of(config: RunConfig, base_directory: Path) -> Blueprint:
    """The adapter that is asked for, on the base in this directory.

    Raises:
        ConfigError: the base cannot carry it.
    """
    request = AdapterRequest(
        method=config.method,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        target_modules=config.target_modules,
    )
    task, labels = task_of(config), config.label_names
    return design(read_base_config(base_directory, task, labels), request, task=task, labels=labels, seed=config.seed)
