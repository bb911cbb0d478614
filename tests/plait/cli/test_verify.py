import json

import pytest

from tests.plait.cli.conftest import by_author

pytestmark = pytest.mark.slow  # all of them look at runs of the command


def test_a_torn_last_line_is_said_and_does_not_count(finished, plait):
    with (finished / "ledger.jsonl").open("ab") as file:
        file.write(b'{"event":"run_fin')
    ran = plait("verify", finished)
    assert ran.code == 0
    assert "a torn last line of 17 bytes is ignored" in ran.out
    assert "not recomputed (updates not kept)" in ran.out
    assert "signatures   not applicable (simulation)" in ran.out


def test_a_damaged_checkpoint_is_said_in_one_line(finished, plait):
    (finished / "checkpoints/round-000002/adapters.safetensors").write_bytes(b"rot")
    ran = plait("verify", finished)
    assert ran.code == 3
    assert ran.err.splitlines()[-1].startswith(
        f"error: checkpoint 'round-000002' of '{finished}' is damaged: digest of adapters"
    )


def test_a_changed_adapter_is_found(finished, plait):
    weights = finished / "adapter/adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    ran = plait("verify", finished)
    assert ran.code == 3
    assert "/adapter' is " in ran.err


@pytest.mark.parametrize(
    ("select", "cut", "said"),
    [
        ("last", "round_finished", "that of round 2, which `plait resume` will finish"),
        ("accepted", "run_finished", "that of round 2"),
    ],
)
def test_a_run_that_died_between_publishing_a_round_and_recording_it_is_whole(
    original, small, plait, tmp_path, select, cut, said
):
    out = tmp_path / "run"
    assert plait(*by_author(original / "my.jsonl", out, small, "--select", select)).code == 0
    ledger = out / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if f'"event":"{cut}"'.encode() in line)
    ledger.write_bytes(b"".join(lines[:last]))
    ran = plait("verify", out)
    assert ran.code == 0, ran.err
    assert said in ran.out


def test_options_of_a_rule_reach_its_rounds_and_are_recorded_and_recomputed(original, small, plait, tmp_path):
    out = tmp_path / "run"
    ran = plait(
        "simulate", "--data", original / "my.jsonl", "--partition", "iid", "--clients", 5, *small, "--rule",
        "trimmed_mean:share=0.4", "--keep-updates", "--out", out,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    closed = [event for event in events if event["event"] == "round_finished"]
    assert len(closed) == 2
    # Two fifths of the clients at either end; the default would leave out one.
    assert [event["figures"]["trimmed_clients"] for event in closed] == [4.0] * len(closed)
    assert events[0]["config"]["rule"] == "trimmed_mean:share=0.4"
    assert 'rule = "trimmed_mean:share=0.4"' in (out / "config.toml").read_text()
    assert f"{len(closed)} recomputed, bit for bit" in plait("verify", out).out
