import json
import os

import pytest

from plait.rounds.evaluation import SequenceLosses
from plait.simulation import loaded
from plait.simulation.loaded import RememberedLosses
from plait.system import machine
from tests.commands import run_command

LOSS = SequenceLosses((0.1 + 0.2, 1e-300), (7, 3), None, "ab")


def never() -> SequenceLosses:
    raise AssertionError("measured anew")


def test_what_was_measured_is_the_same_to_the_last_bit(tmp_path):
    for loss in (LOSS, SequenceLosses((1e-300,), (1,), 1)):
        inputs = [b"a", repr(loss).encode()]
        assert RememberedLosses(tmp_path).recall(inputs, lambda loss=loss: loss) == loss
        assert RememberedLosses(tmp_path).recall(inputs, never) == loss


@pytest.mark.parametrize("inputs", [[b"ab"], [b"a", b""], [b"", b"a"], []])
def test_other_inputs_are_measured(tmp_path, inputs):
    RememberedLosses(tmp_path).recall([b"a"], lambda: LOSS)
    other = SequenceLosses((2.0,), (1,))
    assert RememberedLosses(tmp_path).recall(inputs, lambda: other) == other


def test_other_libraries_measure_anew(tmp_path, monkeypatch):
    RememberedLosses(tmp_path).recall([b"a"], lambda: LOSS)
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "another"})
    loaded._surroundings.cache_clear()
    other = SequenceLosses((2.0,), (1,))
    assert RememberedLosses(tmp_path).recall([b"a"], lambda: other) == other
    loaded._surroundings.cache_clear()


ANOTHERS = SequenceLosses((9.0,), (1,), None).to_bytes().decode()


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        *(
            (text, 0o600)
            for text in ("", "{}", '[["x"], [1], null, ""]', "[[], [], null, null]", "[[1.0], [1], null, 7")
        ),
        (ANOTHERS, 0o666),
    ],
)
def test_an_entry_that_makes_no_sense_or_that_others_can_change_is_measured_anew(tmp_path, content, mode):
    RememberedLosses(tmp_path).recall([b"a"], lambda: LOSS)
    (entry,) = (tmp_path / "losses").iterdir()
    entry.write_text(content)
    entry.chmod(mode)
    assert RememberedLosses(tmp_path).recall([b"a"], lambda: LOSS) == LOSS
    assert RememberedLosses(tmp_path).recall([b"a"], never) == LOSS


@pytest.mark.slow
def test_a_simulation_that_remembers_comes_to_the_same_bits(tmp_path):
    text = "\n".join(f"line {number} of a small book" for number in range(100))
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": text[::-1]}) + "\n")

    def run(name: str) -> tuple[bytes, object]:
        command = (
            "simulate", "--data", "data.jsonl", "--partition", "iid", "--clients", "2", "--base", "tiny",
            "--rounds", "1", "--local-steps", "2", "--seq-len", "32", "--threads", "1", "--out", name, "--json",
        )  # fmt: skip
        done = run_command(*command, cwd=tmp_path, env=os.environ | {"PLAIT_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr
        adapter = (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        return adapter, json.loads(done.stdout)["held_out_loss_by_round"]

    first = run("first")
    kept = {entry.name: entry.read_bytes() for entry in (tmp_path / "cache" / "losses").iterdir()}
    assert len(kept) == 2
    assert run("second") == first
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "cache" / "losses").iterdir()} == kept
