"""Runs whose clients are spread over two processes on one CPU, against the same runs in one process."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from plait.api.settings import run_config_of
from plait.config import RunConfig, config_from_table
from plait.data import Record, RecordKind
from plait.errors import ConfigError, DataError, MachineError, RunInterrupted
from plait.ledger.events import Event, UpdateReceived
from plait.ledger.ledger import read_lines
from plait.plugins import Kind, reference
from plait.rounds.channel import Purpose
from plait.run import resolve
from plait.settle import settle
from plait.simulation import execution as execution_module
from plait.simulation import workers as workers_module
from plait.simulation.execution import execute, prepare
from plait.simulation.loaded import Loaded
from plait.simulation.partition import ClientShare
from plait.simulation.workers import Workers, check_importable, error_fields, error_from, shares_from_bytes
from plait.system.child import ChildMessage

SETTINGS = {
    "partition": "natural:who", "clients": 4, "base": "tiny", "dtype": "float32", "threads": 1, "rounds": 2,
    "local_steps": 1, "batch_size": 1, "seq_len": 16, "max_held_out_sequences": 1, "seed": 7,
}  # fmt: skip
FLEET = '[[device]]\nname = "slow"\ntokens_per_s = 20\nup_mbps = 0.5\ndown_mbps = 2\ncount = 3\ndropout = 0.2\n'
# Of this machine at this time, and not of the run.
_LEFT = ("_s", "time", "hash", "digest", "config", "machine", "peak_rss_bytes", "name", "prev")

Ran = Callable[..., Path]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """What the runs have in common."""
    return Loaded()


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

    def execute_run(
        name: str,
        device: str,
        on_event: Callable[[Event], None] = lambda _: None,
        progress: Callable[[str], None] = lambda _: None,
        **settings: object,
    ) -> Path:
        monkeypatch.setattr(execution_module, "say", lambda text, quiet: progress(text))
        given = {name: str(fleet) if name == "fleet" else value for name, value in settings.items()}
        out = tmp_path / name
        config = run_config_of({**SETTINGS, "data": str(data), "device": device, "out": str(out), **given})
        prepared = prepare(config, quiet=True, loaded=loaded)
        execute(*prepared, quiet=True, loaded=loaded, on_event=on_event)
        return out

    return execute_run


def files(run: Path) -> dict[str, object]:
    """What lies in a run's directory besides ledgers, without times of this machine."""
    folders = ("adapter", "checkpoints", "clients")
    paths = (
        path for name in folders for path in (run / name).rglob("*") if path.is_file() and path.name != "README.md"
    )
    return {
        str(path.relative_to(run)): kept(json.loads(path.read_text()))
        if path.name == "state.json"
        else path.read_bytes()
        for path in paths
    }


def recorded(run: Path) -> list[object]:
    """What a ledger says of a run, without times of this machine."""
    return [kept(line) for line in read_lines(run / "ledger.jsonl")]


def kept(value: object) -> object:
    if isinstance(value, dict):
        return {key: kept(each) for key, each in value.items() if key.endswith("virtual_s") or not key.endswith(_LEFT)}
    return [kept(each) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"clients_per_round": 3, "rounds": 3, "personalize": 0.5},
        {"fleet": "fleet", "rule": "fedsvd", "bits": "fp32"},
        {"dp": "client", "dp_epsilon": 100.0, "dp_clip": 1.0},
    ],
    ids=["own share", "fleet", "noise"],
)
def test_two_processes_have_the_bits_and_the_ledger_of_one(run, settings):
    one, two = run("one", "cpu", **settings), run("two", "cpu,cpu", **settings)
    assert files(one) == files(two)
    assert recorded(one) == recorded(two)


@pytest.mark.slow
def test_a_process_that_is_killed_starts_again_and_the_bits_are_the_same(run, loaded):
    told: list[str] = []
    children: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, UpdateReceived) and event.round == 2 and not children:
            found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "simulation.worker"], capture_output=True)
            children.extend(map(int, found.stdout.split()))
            os.kill(children[-1], signal.SIGKILL)

    settings = {"clients": 3}
    one = run("one", "cpu", **settings)
    two = run("two", "cpu,cpu", on_event=kill, progress=told.append, **settings)
    assert files(one)["adapter/adapter_model.safetensors"] == files(two)["adapter/adapter_model.safetensors"]
    assert len(children) == 2
    (line,) = (text for text in told if text.startswith("worker"))
    assert re.fullmatch(
        r"worker [12] of 2 \(cpu\) was ended by signal 9; it starts again, and its clients are sent the whole adapter",
        line,
    )
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


class FakeChild:
    """A process that answers every task with its client's number, or dies at it."""

    made: ClassVar[list[FakeChild]] = []
    dies: ClassVar[int] = 0

    def __init__(self, module: str) -> None:
        assert module == "plait.simulation.worker"
        self.heard: list[tuple[dict, tuple[bytes, ...]]] = []
        FakeChild.made.append(self)

    def send(self, said: dict, *parts: bytes) -> None:
        self.heard.append((said, parts))

    def receive(self) -> ChildMessage | None:
        said, parts = self.heard[-1]
        if "config" in said:
            return ChildMessage({})
        if FakeChild.dies:
            FakeChild.dies -= 1
            return None
        if parts[0] == b"broken":
            return ChildMessage(error_fields(DataError("client 'two' has too little data")))
        return ChildMessage({"silent": None}, [b"%d: " % said["node"] + parts[0]])

    def ending(self) -> str:
        return "was ended by signal 9"

    def kill(self, **_: float) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Workers, list[str]]]:
    monkeypatch.setattr(workers_module, "Child", FakeChild)
    monkeypatch.setattr(FakeChild, "made", [])
    monkeypatch.setattr(FakeChild, "dies", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))

    def made(device: str, **settings: object) -> tuple[Workers, list[str]]:
        config = RunConfig(device=device, base="tiny", clients=6, data="none", out="run", **settings)
        resolved, said = resolve(settle(config)), list[str]()
        shares = [
            ClientShare(f"client-{number}", RecordKind.TEXT, (Record(text=f"{number}"),), (), {"a": number})
            for number in range(6)
        ]
        return Workers(resolved, shares, stop=None, progress=said.append), said

    return made


def asked(channel: Workers, tasks: list[tuple[int, bytes]]) -> list[object]:
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        for node, task in tasks:
            exchange.send(node, (task, b""))
        return list(iter(lambda: exchange.receive(None), None))


def test_every_entry_of_the_list_is_a_process_with_its_share_of_a_device_and_its_own_clients(fake):
    workers, _ = fake("cuda:0,cuda:1,cuda:0", threads=3)
    answers = asked(workers, [(node, b"task") for node in (5, 3, 0, 4, 1, 2)])
    workers.close()
    # In the order of the tasks, whichever was faster.
    assert answers == [(node, b"%d: task" % node) for node in (5, 3, 0, 4, 1, 2)]
    found = {}
    for child in FakeChild.made:
        (said, (data,)), *tasks = child.heard
        clients = shares_from_bytes(data)
        found[tuple(clients)] = (
            said["config"]["device"], said["config"]["dtype"], said["config"]["threads"], said["parts"],
            [told["node"] for told, _ in tasks],
        )  # fmt: skip
    assert found == {
        (0, 3): ("cuda:0", "bfloat16", 3, 2, [3, 0]),
        (1, 4): ("cuda:1", "bfloat16", 3, 1, [4, 1]),
        (2, 5): ("cuda:0", "bfloat16", 3, 2, [5, 2]),
    }


def test_a_process_that_always_dies_ends_the_run_in_one_line(fake):
    workers, said = fake("cpu,cpu")
    FakeChild.dies = 2
    assert asked(workers, [(1, b"task")]) == [(1, b"1: task")]
    FakeChild.dies = 3
    with pytest.raises(MachineError, match=r"worker 2 of 2 \(cpu\) was ended by signal 9 at one task, 3 times"):
        asked(workers, [(1, b"task")])
    workers.close()
    assert len(said) == 4
    assert len(FakeChild.made) == 5


def test_an_error_in_a_process_is_the_error_of_the_run(fake):
    workers, _ = fake("cpu,cpu")
    with pytest.raises(DataError, match=r"^client 'two' has too little data$"):
        asked(workers, [(0, b"broken")])
    workers.close()
    # One that is none of plait's own is a fault of the program.
    again = error_from(error_fields(ZeroDivisionError("division by zero")))
    assert str(again) == "a worker failed: ZeroDivisionError: division by zero"


def test_a_run_that_is_to_stop_waits_for_no_process(fake):
    workers, _ = fake("cpu,cpu")
    workers.stop.asked = True
    with pytest.raises(RunInterrupted):
        asked(workers, [(0, b"task")])
    workers.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"fleet": "x.toml", "rounds_mode": "async"},
            "rounds-mode is 'async' and device is 'cpu,cpu', expected rounds-mode sync or device auto",
        ),
        ({"fleet": "x.toml", "deadline_s": 9.0}, "deadline-s is 9.0 and device is 'cpu,cpu'"),
    ],
)
def test_what_several_devices_do_not_go_with_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_from_table({"device": "cpu,cpu", **settings})


def test_a_part_that_only_this_process_has_is_refused_by_its_name():
    def a_loss(logits: object, labels: object, adapter: object) -> object:
        raise NotImplementedError

    config = RunConfig(device="cpu,cpu", base="tiny", loss=reference(Kind.LOSS, a_loss))
    with pytest.raises(ConfigError, match=r"loss is '.*a_loss' and device is 'cpu,cpu', expected a part in a module"):
        check_importable(resolve(settle(config)))
