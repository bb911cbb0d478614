from __future__ import annotations

from dataclasses import replace

import pytest

from plait.adapters import norm, subtract
from plait.data import Record, RecordKind
from plait.errors import DataError
from plait.rounds.moved_base import MovedBase
from plait.rounds.participant import Carried
from plait.training.blueprint import Blueprint
from plait.training.local_model import PeftLocalModel, Training, train_clients
from plait.training.reference import train_reference
from plait.training.resident import ResidentBase
from plait.wire.settings import Settings

SETTINGS = Settings(
    local_steps=6, batch_size=2, gradient_accumulation_steps=1, seq_len=32, learning_rate=1e-2, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.2, max_held_out_sequences=4, seed=5, total_steps=6,
)  # fmt: skip


def client(resident: ResidentBase, name: str, text: str) -> PeftLocalModel:
    return PeftLocalModel(resident, name, [Record(text=text)], kind=RecordKind.TEXT, histogram={name: 1})


@pytest.fixture
def ada(resident: ResidentBase) -> PeftLocalModel:
    return client(resident, "ada", "def add(left, right):\n    return left + right\n" * 40)


@pytest.fixture
def bob(resident: ResidentBase) -> PeftLocalModel:
    return client(resident, "bob", "The quick brown fox jumps over the lazy dog. " * 60)


def test_training_helps_the_held_out_part_and_leaves_the_given_state_alone(
    ada: PeftLocalModel, blueprint: Blueprint
) -> None:
    digest = blueprint.initial.digest()
    before = ada.evaluate(blueprint.spec, blueprint.initial, SETTINGS)
    trained = ada.train(blueprint.spec, blueprint.initial, SETTINGS, Carried())
    after = ada.evaluate(blueprint.spec, trained.state, SETTINGS)
    assert after.loss < before.loss - 0.2
    assert trained.tokens == 6 * 2 * 32
    assert blueprint.initial.digest() == digest


def test_the_first_answer_is_kept_apart_from_the_second_clients(
    ada: PeftLocalModel, bob: PeftLocalModel, blueprint: Blueprint
) -> None:
    alone = bob.train(blueprint.spec, blueprint.initial, SETTINGS, Carried()).state.digest()
    ada.train(blueprint.spec, blueprint.initial, SETTINGS, Carried())
    assert bob.train(blueprint.spec, blueprint.initial, SETTINGS, Carried()).state.digest() == alone


def test_clients_train_together_as_they_do_alone_whatever_they_have_in_common(
    ada: PeftLocalModel, bob: PeftLocalModel, resident: ResidentBase, blueprint: Blueprint
) -> None:
    narrow = resident.prepare(replace(blueprint.spec, peft_config={**blueprint.spec.peft_config, "r": 2}).text)
    own = client(resident, "own", "one two three four five six seven eight " * 60)
    wanted = [
        Training(who, design.spec, design.initial, settings, Carried(), MovedBase())
        for who, design, settings in (
            (ada, blueprint, SETTINGS),
            (own, narrow, SETTINGS),
            (bob, blueprint, replace(SETTINGS, seed=6)),
            (bob, blueprint, replace(SETTINGS, local_steps=2)),
        )
    ]
    for training, done in zip(wanted, train_clients(wanted), strict=True):
        alone = training.client.train_alone(training)
        step = norm(subtract(alone.state, training.state))
        assert norm(subtract(done.state, alone.state)) < 1e-3 * step
        assert done.loss == pytest.approx(alone.loss, rel=1e-4)


def test_sizes_are_counted_under_the_settings_of_the_task(ada: PeftLocalModel, blueprint: Blueprint) -> None:
    short = ada.data_size(blueprint.spec, replace(SETTINGS, seq_len=16))
    long = ada.data_size(blueprint.spec, SETTINGS)
    assert short.train_examples > 1.8 * long.train_examples
    assert long.train_tokens == 32 * long.train_examples
    assert long.histogram == {"ada": 1}


def test_too_little_text_is_refused_by_the_clients_name(resident: ResidentBase, blueprint: Blueprint) -> None:
    with pytest.raises(DataError, match="client 'zoe' has too little data"):
        client(resident, "zoe", "x = 1\n").data_size(blueprint.spec, SETTINGS)


def test_baselines_take_the_same_steps_and_beat_the_base(
    resident: ResidentBase, ada: PeftLocalModel, bob: PeftLocalModel, blueprint: Blueprint
) -> None:
    clients = {"ada": ada, "bob": bob}
    base = {name: c.evaluate(blueprint.spec, blueprint.initial, SETTINGS).loss for name, c in clients.items()}
    for kind, batch in (("central", 4), ("local", 2)):
        reference = train_reference(
            kind, resident, clients, spec=blueprint.spec, initial=blueprint.initial, settings=SETTINGS, steps=6, seed=1
        )
        assert (reference.steps, reference.batch_size) == (6, batch)
        assert all(reference.by_client[name].loss < base[name] for name in clients)
        own = sum(loss.loss * loss.tokens for loss in reference.by_client.values())
        own /= sum(loss.tokens for loss in reference.by_client.values())
        if kind == "central":
            assert reference.everywhere == pytest.approx(own)
        else:
            # What a client learned alone is worth less to the other one.
            assert own + 0.01 < reference.everywhere
