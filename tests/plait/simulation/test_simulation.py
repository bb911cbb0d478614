import gc
import json
import weakref
from collections.abc import Sequence

import pytest

from plait.config import RunConfig
from plait.errors import ConfigError, PartError
from plait.run import Run, resolve
from plait.settle import settle
from plait.simulation.execution import prepare
from plait.simulation.partition import ClientShare
from plait.simulation.partitioned_data import load_partitioned
from plait.simulation.simulation import SimulatedMemory, Simulation, VolatileMemory, shared_bytes


@pytest.fixture
def prepared(tmp_path) -> tuple[Run, Sequence[ClientShare]]:
    path = tmp_path / "data.jsonl"
    lines = [{"text": f"line {n} of {who}", "who": who} for who in ("ann", "bob") for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = RunConfig(
        data=str(path), partition="natural:who", clients=2, base="tiny", device="cpu", dtype="float32",
        client_ranks="2,8", rule="flexlora", out=str(tmp_path / "run"),
    )  # fmt: skip
    return resolve(settle(config)), load_partitioned(config).partition.shares


def test_a_run_whose_clients_bring_their_data_is_not_simulated_with_whatever_is_here():
    with pytest.raises(ConfigError, match="data is missing; to continue a run"):
        prepare(RunConfig(data="", base="tiny"), quiet=True)


@pytest.mark.slow
def test_clients_are_the_parts_of_the_data_and_take_turns_with_the_ranks(prepared):
    simulation = Simulation(*prepared)
    assert [simulation.name(index) for index in (0, 1)] == ["ann", "bob"]
    assert [simulation.participant(index).max_rank for index in (0, 1)] == [2, 8]
    assert simulation.model(1).base_fingerprint == prepared[0].base_fingerprint


@pytest.mark.slow
def test_a_client_is_kept_from_task_to_task_and_let_go_with_the_simulation(prepared):
    simulation = Simulation(*prepared)
    first = weakref.ref(simulation.model(0))
    assert simulation.model(0) is first()
    assert simulation.participant(0).model is first()
    del simulation
    gc.collect()
    assert first() is None


@pytest.mark.slow
def test_the_author_of_a_part_sees_its_exception_once_and_no_answer_has_it(prepared, monkeypatch, capsys):
    def failing(*_: object) -> None:
        raise PartError("trainer 'mine' failed: KeyError", "trainer 'mine' failed: KeyError: 'a text'")

    simulation = Simulation(*prepared)
    for index in (0, 1):
        participant = simulation.participant(index)
        monkeypatch.setattr(participant, "_work", failing)
        assert b"a text" not in participant.answer(b"")
    assert capsys.readouterr().err == "trainer 'mine' failed: KeyError: 'a text'\n"


@pytest.mark.slow
def test_two_simulations_of_one_process_share_nothing(prepared):
    one, other = Simulation(*prepared), Simulation(*prepared)
    one.participant(0).memory.save("adapter", b"one")
    assert other.participant(0).memory.load("adapter") is None
    assert one.participant(0).memory.load("adapter") == b"one"
    assert one.base is not other.base


def test_clients_of_one_process_share_one_copy_of_the_same_bytes_and_nothing_else():
    shared = shared_bytes()
    alice, bob = VolatileMemory(shared), VolatileMemory(shared)
    for memory in (alice, bob):
        memory.save("adapter", bytes([7]) * 1000)
    assert alice.load("adapter") is bob.load("adapter")
    alice.save("adapter", b"a")
    bob.save("adapter", b"b")
    assert (alice.load("adapter"), bob.load("adapter"), bob.load("spec")) == (b"a", b"b", None)


def test_what_could_not_be_sent_again_survives_the_process(tmp_path):
    def memory(name):
        return SimulatedMemory(VolatileMemory(shared_bytes()), tmp_path / "clients" / name)

    first = memory("ada")
    first.save("residual", b"owed")
    first.save("adapter", b"sent again when lost")
    after_a_kill = memory("ada")
    assert after_a_kill.load("residual") == b"owed"
    assert after_a_kill.load("adapter") is None
    assert memory("bob").load("residual") is None
