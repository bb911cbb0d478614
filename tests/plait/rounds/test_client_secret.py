"""The secret that decides a client's batches and rounding: one for each run, the same in every attempt at a round."""

from dataclasses import replace

import pytest

from plait.rounds.memory import IRREPLACEABLE, ClientSecret

RECEIVED = b"r" * 32


@pytest.fixture
def masked(federate, fake_model):
    settings = federate({"alice": fake_model(1.0, 3)}).plan.settings
    return replace(settings, secure_aggregation=True, round=3, seed=9)


@pytest.fixture
def memory(federate, fake_model):
    return federate({"alice": fake_model(1.0, 3)}).memories["alice"]


def test_it_is_drawn_once_for_a_run_and_kept(memory):
    first = ClientSecret.of(memory)
    assert ClientSecret.of(memory) == first
    assert ClientSecret.of(type(memory)()) != first
    assert set(memory) <= IRREPLACEABLE
    assert first.value.hex() not in repr(first)


def test_batches_follow_from_it_and_not_from_the_servers_seed(masked, memory):
    secret = ClientSecret.of(memory)
    own = secret.seeded(masked)
    assert own == secret.seeded(replace(masked, seed=10))
    others = [ClientSecret.of(type(memory)()).seeded(masked), secret.seeded(replace(masked, round=4))]
    assert len({each.seed for each in (masked, own, *others)}) == 4
    assert replace(own, seed=masked.seed) == masked


def test_without_masks_batches_follow_from_the_servers_seed(masked, memory):
    plain = replace(masked, secure_aggregation=False)
    assert ClientSecret.of(memory).seeded(plain) == plain


def test_rounding_differs_by_run_round_and_adapter_alone(memory):
    secret = ClientSecret.of(memory)
    keys = {
        secret.rounding(3, RECEIVED),
        secret.rounding(4, RECEIVED),
        secret.rounding(3, bytes(32)),
        ClientSecret.of(type(memory)()).rounding(3, RECEIVED),
    }
    assert len(keys) == 4
    assert secret.rounding(3, RECEIVED) in keys


def test_that_of_a_simulation_follows_from_its_seed():
    assert ClientSecret.simulated(1, "alice") == ClientSecret.simulated(1, "alice")
    assert len({ClientSecret.simulated(seed, name) for seed in (1, 2) for name in ("alice", "bob")}) == 4
