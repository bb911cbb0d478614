"""Preferences and rewards over several devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plait.plugins import Kind, reference
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint
from plait.training.device import Compute
from plait.training.examples import Example
from plait.training.resident import ResidentBase
from tests.plait.training.test_replicas import SETTINGS, check_equal, rows, trained


def pairs() -> list[Example]:
    found = rows()
    return [Example.of_sides(*both) for both in zip(found, found[1:] + found[:1], strict=True)]


@pytest.fixture(scope="module")
def base(tiny: LocatedBase) -> ResidentBase:
    cpu = Compute(torch.device("cpu"), torch.float32)
    return ResidentBase(tiny.directory, tiny.reference.fingerprint, cpu, seq_len=32, others=[cpu])


@pytest.mark.slow
def test_several_devices_take_the_steps_of_one(base: ResidentBase, blueprint: Blueprint) -> None:
    settings = replace(SETTINGS, objective="dpo")
    one = trained(base, blueprint, 1, pairs(), settings)
    check_equal(trained(base, blueprint, 2, pairs(), settings), one, blueprint)


def by_length(prompt: str, completion: str, answer: str) -> int:
    return len(completion) % 3


@pytest.mark.slow
def test_rewarded_completions_are_sampled_and_learned_over_devices(base: ResidentBase, blueprint: Blueprint) -> None:
    prompts = [Example.of_sides(example, None) for example in rows() if example.labels[0] == -100]
    reward = reference(Kind.REWARD, by_length)
    objective = f"grpo:beta=0.1,num_iterations=2,reward={reward},group_size=3,max_completion_tokens=4"
    settings = replace(SETTINGS, objective=objective, batch_size=4, seq_len=32)
    one = trained(base, blueprint, 1, prompts, settings, tokenizer=base.tokenizer)
    check_equal(trained(base, blueprint, 2, prompts, settings, tokenizer=base.tokenizer), one, blueprint)
