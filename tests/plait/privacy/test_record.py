"""A client's account of its own records: what is paid, when, and what no crash and no server changes about that."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.errors import ConfigError, PolicyError
from plait.guarantees import sampled_epsilon
from plait.privacy.client import KEY, RecordPrivacy, charge, made_of, privacy_of
from plait.privacy.noise import Keystream
from plait.rounds.local_model import Carried, Moments, TrainJob
from plait.rounds.memory import DiskMemory
from plait.wire.settings import Settings
from tests.commands import killed_after
from tests.plait.rounds.conftest import DictMemory

PLAIN = {"records": 200, "batch": 20, "steps": 10, "delta": 1e-5, "epsilon": 4.0, "clip_norm": 1.0}


@pytest.mark.slow
def test_the_noise_is_that_with_which_all_steps_just_fit():
    privacy = RecordPrivacy.of(**PLAIN)
    assert privacy.epsilon_after(10) <= 4.0 < privacy.epsilon_after(11)
    assert privacy.epsilon_after(10) == sampled_epsilon(privacy.noise, 0.1, 10, 1e-5)
    assert privacy.mechanism.update_multiplier == privacy.noise
    assert privacy.mechanism.clients == 20


def test_a_client_with_less_than_a_batch_draws_all_and_divides_by_what_it_has():
    privacy = RecordPrivacy.of(**{**PLAIN, "records": 7})
    assert (privacy.batch, privacy.rate) == (7, 1.0)
    assert privacy.sample(Keystream(bytes(32))).tolist() == list(range(7))


def test_every_record_is_drawn_independently_with_the_same_probability():
    privacy = RecordPrivacy.of(**PLAIN)
    stream = Keystream(b"k" * 32)
    drawn = np.zeros((4000, 200), bool)
    for row in drawn:
        row[privacy.sample(stream)] = True
    # Of 200 frequencies with a deviation of sqrt(0.1 * 0.9 / 4000) none is 5 deviations off.
    assert np.abs(drawn.mean(axis=0) - 0.1).max() < 5 * math.sqrt(0.09 / 4000)
    # Sizes vary as those of independent draws do, and shuffled batches would not.
    assert drawn.sum(axis=1).var() == pytest.approx(200 * 0.09, rel=0.15)
    together = (drawn[:, ::2] & drawn[:, 1::2]).mean()
    assert together == pytest.approx(0.01, rel=0.05)


def test_a_delta_that_would_show_a_record_is_refused():
    with pytest.raises(ConfigError, match=r"dp-delta is 0.01 and this client has 200 records, expected less than"):
        RecordPrivacy.of(**{**PLAIN, "delta": 0.01})


RUN = b"r" * 16
SETTINGS = Settings(
    local_steps=4, batch_size=10, gradient_accumulation_steps=1, seq_len=8, learning_rate=0.1, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=0,
)  # fmt: skip
# Twelve steps cost 3.02 and a thirteenth 3.10.
PRIVACY = RecordPrivacy(records=100, batch=10, noise=1.0, delta=1e-5, epsilon=3.05, clip_norm=None)


def paid(memory, inputs: bytes, *, steps: int = 4, run: bytes = RUN, privacy: RecordPrivacy = PRIVACY):
    return charge(memory, privacy, run_id=run, inputs=inputs, steps=steps)


@pytest.mark.slow
def test_the_rounds_of_a_run_fit_its_epsilon_and_no_other_does():
    memory = DictMemory()
    epsilons = [paid(memory, bytes([number])).epsilon for number in range(3)]
    assert epsilons == [PRIVACY.epsilon_after(steps) for steps in (4, 8, 12)]
    assert epsilons[-1] <= 3.05
    before = dict(memory)
    with pytest.raises(PolicyError, match=r"this round would bring epsilon of this client's records to 3\.1 at delta"):
        paid(memory, b"other", steps=1)
    assert memory == before
    # What is paid for may be asked again.
    assert paid(memory, bytes([1])).epsilon == epsilons[-1]


@pytest.mark.slow
def test_the_same_inputs_get_the_same_key_for_free_and_others_an_independent_one():
    memory = DictMemory()
    first = paid(memory, b"a")
    assert paid(memory, b"a") == first
    second = paid(memory, b"b")
    assert second.key != first.key
    assert second.epsilon > first.epsilon
    # Not even the number of steps may differ under one key.
    assert paid(memory, b"a", steps=1).key != first.key


def test_keys_follow_from_a_secret_of_the_client_alone():
    one, other = DictMemory(), DictMemory()
    assert paid(one, b"a").key != paid(other, b"a").key
    assert paid(one, b"a").key.hex() not in one[KEY].decode()


def test_another_run_does_not_take_the_place_of_an_account():
    memory = DictMemory()
    paid(memory, b"a")
    before = dict(memory)
    with pytest.raises(PolicyError, match=r"run is 7373\w+, expected 7272\w+, whose account"):
        paid(memory, b"a", run=b"s" * 16)
    assert memory == before


@pytest.mark.parametrize(("change", "what"), [
    ({"records": 101}, "records: 101, expected 100"), ({"noise": 9.0}, "noise multiplier: 9, expected"),
])  # fmt: skip
def test_data_and_noise_may_not_change_within_a_run(change, what):
    memory = DictMemory()
    paid(memory, b"a")
    with pytest.raises(PolicyError, match=what):
        paid(memory, b"b", privacy=replace(PRIVACY, **change))


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"run": 1}', "truncated", "no secret"])
def test_a_damaged_account_is_no_empty_one(damage):
    memory = DictMemory()
    paid(memory, b"a")
    if damage == "truncated":
        damage = memory[KEY][:-9]
    elif damage == "no secret":
        damage = json.dumps({**json.loads(memory[KEY]), "secret": ""}).encode()
    memory[KEY] = damage
    with pytest.raises(ConfigError, match="is damaged: what it has spent is unknown"):
        paid(memory, b"a")


_WORK = """
import sys
from pathlib import Path
from plait.privacy.client import RecordPrivacy
from plait.rounds.memory import DiskMemory
from plait.privacy.client import charge
memory = DiskMemory(Path(sys.argv[1]))
privacy = RecordPrivacy(records=100, batch=10, noise=1.0, delta=1e-5, epsilon=3.05, clip_norm=None)
for number in range(3):
    charged = charge(memory, privacy, run_id=b"r" * 16, inputs=bytes([number]), steps=4)
    print(number, charged.key.hex(), flush=True)
"""


@pytest.mark.slow
def test_whatever_kills_the_client_what_it_answered_with_is_on_disk(tmp_path):
    # Killed as soon as it has a key that it could have answered with, after none, one, two and all rounds.
    keys: dict[str, str] = {}
    for lines in (1, 2, 3, 1):
        for number, key in map(str.split, killed_after(lines, _WORK, tmp_path / "client")):
            assert keys.setdefault(number, key) == key
        account = json.loads((tmp_path / "client" / KEY).read_text())
        assert sum(account["charges"].values()) >= 4 * len(keys)
    assert len(keys) == 3
    assert Path(tmp_path / "client" / KEY).stat().st_mode & 0o777 == 0o600
    with pytest.raises(PolicyError, match="takes no further part"):
        paid(DiskMemory(tmp_path / "client"), b"a fourth")


@pytest.mark.slow
def test_what_a_client_allows_is_never_exceeded_whatever_the_run_asks_for():
    settings = replace(SETTINGS, total_steps=12, record_delta=1e-5, record_epsilon=3.05)
    assert privacy_of(settings, records=100, most=3.2).epsilon == 3.05
    with pytest.raises(
        PolicyError, match=r"epsilon of this client's records to 3\.0\d+ at delta 1e-05, but dp-max-epsi"
    ):
        privacy_of(settings, records=100, most=3.0)


def test_whatever_decides_a_gradient_decides_the_noise():
    layout = Layout.of({"m.lora_A.weight": [1, 2], "m.lora_B.weight": [2, 1]})
    state = AdapterState(layout, np.arange(4, dtype=np.float32))
    spec = AdapterSpec("lora", {"r": 1}, AdapterTask.CAUSAL_LM, (), layout, 0)
    job = TrainJob(None, spec, SETTINGS, received=state, start=state)
    other = AdapterState(layout, np.ones(4, np.float32))
    moments = Moments.none(4, 2)
    jobs = [
        job, replace(job, start=other), replace(job, received=other), replace(job, settings=replace(SETTINGS, round=2)),
        replace(job, settings=replace(SETTINGS, seed=1)), replace(job, settings=replace(SETTINGS, trained="B")),
        replace(job, carried=Carried(moments=moments)),
        replace(job, carried=Carried(moments=replace(moments, square=other.flat))),
    ]  # fmt: skip
    digests = [made_of(each, b"data") for each in jobs] + [made_of(job, b"other data")]
    assert len(set(digests)) == len(digests)
    assert made_of(replace(job, client="whoever"), b"data") == digests[0]
