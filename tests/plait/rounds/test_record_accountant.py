"""A client's account of its own records: what is paid, when, and what no crash and no server changes about that."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from plait.errors import ConfigError, PolicyError
from plait.privacy.record import RecordPrivacy
from plait.rounds.disk_memory import DiskMemory
from plait.rounds.record_accountant import KEY, charge
from tests.plait.rounds.conftest import DictMemory

RUN = b"r" * 16
# Twelve steps cost 3.02 and a thirteenth 3.10.
PRIVACY = RecordPrivacy(records=100, batch=10, noise=1.0, delta=1e-5, epsilon=3.05, clip_norm=None)


def paid(memory, inputs: bytes, *, steps: int = 4, run: bytes = RUN, privacy: RecordPrivacy = PRIVACY):
    return charge(memory, privacy, run_id=run, inputs=inputs, steps=steps)


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


def test_another_run_has_an_account_of_its_own():
    memory = DictMemory()
    first = paid(memory, b"a")
    second = paid(memory, b"a", run=b"s" * 16)
    assert (second.epsilon, second.key != first.key) == (first.epsilon, True)


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
from plait.privacy.record import RecordPrivacy
from plait.rounds.disk_memory import DiskMemory
from plait.rounds.record_accountant import charge
memory = DiskMemory(Path(sys.argv[1]))
privacy = RecordPrivacy(records=100, batch=10, noise=1.0, delta=1e-5, epsilon=3.05, clip_norm=None)
for number in range(3):
    charged = charge(memory, privacy, run_id=b"r" * 16, inputs=bytes([number]), steps=4)
    print(number, charged.key.hex(), flush=True)
"""


def test_whatever_kills_the_client_what_it_answered_with_is_on_disk(tmp_path):
    # Killed as soon as it has a key that it could have answered with, after none, one, two and all rounds.
    keys: dict[str, str] = {}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for lines in (1, 2, 3, 1):
        command = [sys.executable, "-c", _WORK, str(tmp_path / "client")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            for _ in range(lines):
                number, key = process.stdout.readline().split()
                assert keys.setdefault(number, key) == key
            process.send_signal(signal.SIGKILL)
        account = json.loads((tmp_path / "client" / KEY).read_text())
        assert sum(account["charges"].values()) >= 4 * len(keys)
    assert len(keys) == 3
    assert Path(tmp_path / "client" / KEY).stat().st_mode & 0o777 == 0o600
    with pytest.raises(PolicyError, match="takes no further part"):
        paid(DiskMemory(tmp_path / "client"), b"a fourth")
