"""Runs whose clients are spread over two processes on one CPU, against the same runs in one process."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plait.config import RunConfig
from plait.rounds.events import Event
from plait.rounds.ledger import read_lines
from plait.simulation.execution import execute, prepare
from plait.simulation.loaded import Loaded

SETTINGS = {
    "partition": "natural:who", "clients": 4, "base": "tiny", "dtype": "float32", "threads": 1, "rounds": 2,
    "local_steps": 1, "batch_size": 1, "seq_len": 16, "max_held_out_sequences": 1, "seed": 7,
}  # fmt: skip
FLEET = '[[device]]\nname = "slow"\ntokens_per_s = 20\nup_mbps = 0.5\ndown_mbps = 2\ncount = 3\ndropout = 0.2\n'
# Of this machine at this time, and not of the run.
_LEFT = ("_s", "time", "hash", "digest", "config", "machine", "peak_rss_bytes", "name")

Ran = Callable[..., Path]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    """Keeps the processes from run to run."""
    kept = Loaded()
    yield kept
    kept.close()


@pytest.fixture
def run(tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Ran:
    data, fleet = tmp_path / "data.jsonl", tmp_path / "fleet.toml"
    lines = [
        {"text": f"line {n} of {who}, who wrote {n * n} others before it", "who": who}
        for who in ("ann", "bob", "cy", "dora")
        for n in range(6)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fleet.write_text(FLEET)
    # Runs differ by their names and by the key of their noise.
    monkeypatch.setattr(secrets, "token_bytes", lambda count=32: b"7" * count)

    def execute_run(name: str, device: str, on_event: Callable[[Event], None] = lambda _: None, **settings) -> Path:
        given = {name: str(fleet) if name == "devices" else value for name, value in settings.items()}
        out = tmp_path / name
        config = RunConfig(**{**SETTINGS, "data": str(data), "device": device, "out": str(out), **given})
        prepared = prepare(config, quiet=True, loaded=loaded)
        execute(*prepared, quiet=True, loaded=loaded, on_event=on_event)
        return out

    return execute_run


def files(run: Path) -> dict[str, object]:
    """What lies in a run's directory besides ledgers, without times of this machine."""
    folders = ("adapter", "checkpoints", "clients", "regions")
    paths = (
        path for name in folders for path in (run / name).rglob("*") if path.is_file() and path.name != "README.md"
    )
    return {
        str(path.relative_to(run)): kept(json.loads(path.read_text()))
        if path.name == "state.json"
        else path.read_bytes()
        for path in paths
        if path.name != "ledger.jsonl"
    }


def recorded(run: Path) -> list[object]:
    """What a ledger says of a run, without times of this machine."""
    return [kept(line) for line in read_lines(run / "ledger.jsonl")]


def kept(value: object) -> object:
    if isinstance(value, dict):
        return {key: kept(each) for key, each in value.items() if key.endswith("virtual_s") or not key.endswith(_LEFT)}
    return [kept(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "settings",
    [
        {"clients_per_round": 3, "rounds": 3, "moments": "carry", "own_share": 0.5, "reference": "local"},
        {"rule": "fedex", "client_ranks": "8,4"},
        {"scaffold": True, "wire": "fp32"},
        {"dp": "client", "dp_noise_multiplier": 0.1},
        {"tree": "2x2"},
        {"devices": "fleet"},
        {"rule": "fedsa", "wire": "2"},
    ],
    ids=lambda settings: next(iter(settings)) + str(next(iter(settings.values()))),
)
def test_two_processes_have_the_bits_and_the_ledger_of_one(run: Ran, settings: dict[str, object]) -> None:
    one, two = run("one", "cpu", **settings), run("two", "cpu,cpu", **settings)
    assert files(one) == files(two)
    assert recorded(one) == recorded(two)
