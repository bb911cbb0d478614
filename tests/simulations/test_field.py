"""The field: an outsider's entrant takes part with one folder, and the table is that of the committed rows."""

import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plait.training.bases import unpack_tiny

FIELD = Path(__file__).parents[2] / "simulations" / "field"
RUN = '''
"""Learns nothing, but takes part: every client gets the adapter and sends it back."""

from work import Work, load, mean, save, state_of

work = Work.from_arguments()
shared = state_of(work.model())
work.finished(0, shared)
for number in range(1, work.told["rounds"] + 1):
    received = [load(work.sent(number, client, "down", save(shared))) for client in work.clients]
    answers = [load(work.sent(number, client, "up", save(state))) for client, state in zip(work.clients, received)]
    shared = mean(answers, [1.0] * len(answers))
    work.finished(number, shared)
'''
FILES = {
    "run.py": RUN,
    "requirements.txt": "torch==2.13.0\ntransformers==5.24.0\npeft==0.21.2\nsafetensors==0.8.0\n",
    "entrant.json": '{"variants": {"": {}}, "fixes": "nothing is learned"}',
}


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FIELD)
    names = ("run", "check", "works", "deployments", "work")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import check
    import run

    yield run, check
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


def told(folder: Path) -> dict[str, object]:
    """A federation of two clients with some tokens each."""
    draw = torch.Generator().manual_seed(0)
    clients = []
    for name in ("ada", "ben"):
        tokens = torch.randint(0, 2048, (2, 8), generator=draw)
        fields = {"tokens": tokens, "labels": tokens.clone(), "mask": torch.ones_like(tokens)}
        parts = {f"{part}.{field}": each.clone() for part in ("train", "held_out") for field, each in fields.items()}
        save_file(parts, folder / f"{name}.safetensors")
        clients.append({"name": name, "sequences": str(folder / f"{name}.safetensors")})
    return {
        "base": str(unpack_tiny()), "clients": clients, "rounds": 1, "rank": 2, "alpha": 4, "targets": ["q_proj"],
        "dtype": "float32", "threads": 1, "seed": 0, "learning_rate": None, "variant": {}, "classes": 0,
        "per_round": 2, "judged_every": 1, "sequences": "",
    }  # fmt: skip


@pytest.mark.slow
def test_a_fifth_entrant_is_one_folder_of_less_than_60_lines(field, tmp_path):
    run, check = field
    assert sum(len(text.splitlines()) for text in FILES.values()) < 60
    (tmp_path / "stub").mkdir()
    for name, text in FILES.items():
        (tmp_path / "stub" / name).write_text(text)
    (stub,) = run.entrants(tmp_path)
    key = {"cell": "stub", "setting": "default", "seed": 0, "rate": None}
    row = run.measured(key, stub, told(tmp_path), Path(sys.executable))
    assert "failed" not in row, row["failed"]
    assert row["losses"]["1"] == pytest.approx(row["losses"]["base"], abs=1e-5)
    # Query projections of four layers, from 128 to 128 numbers at rank 2, in float32.
    assert all(each["bytes"] > 4 * 4 * 2 * (128 + 128) for each in row["bytes"])
    assert [(each["client"], each["direction"]) for each in row["bytes"]] == [
        (client, way) for client in ("ada", "ben") for way in ("down", "up")
    ]
    assert "| stub | default |" in check.table([row])[-1]


@pytest.mark.slow
def test_plait_and_the_loop_learn_from_the_same_sequences(field, tmp_path):
    run, check = field
    from works import FEDERATIONS, configuration

    smallest = replace(FEDERATIONS["quick"], clients=2, rounds=2, held_out=8)
    given = configuration(smallest, 0, tmp_path, tmp_path)
    rows = []
    for entrant in (each for each in run.entrants() if each.name in ("peft", "plait")):
        key = {"cell": entrant.name, "setting": "default", "seed": 0, "rate": None}
        row = run.measured(key, entrant, given | {"learning_rate": None, "variant": {}}, Path(sys.executable))
        assert "failed" not in row, row["failed"]
        assert check.loss_of(row) < check.fmean(row["losses"]["base"].values())
        rows.append(row)
    peft, plait = (sum(each["bytes"] for each in row["bytes"]) for row in rows)
    assert 20 * plait < peft
    assert len(check.table(rows)) == 4


@pytest.mark.slow
def test_an_entrant_that_fails_is_told_with_its_last_words(field, tmp_path):
    run, _ = field
    (tmp_path / "stub").mkdir()
    for name, text in {**FILES, "run.py": "raise SystemExit('no such thing')"}.items():
        (tmp_path / "stub" / name).write_text(text)
    (stub,) = run.entrants(tmp_path)
    assert "no such thing" in run.measured({}, stub, {}, Path(sys.executable))["failed"]


def test_the_page_has_the_tables_of_the_committed_rows(field):
    _, check = field
    page = (FIELD / "README.md").read_text()
    made = check.tables(FIELD.glob("*.jsonl"))
    assert {"quick", "documents-short", "faults", "aims"} <= made.keys()
    assert [name for name, shown in made.items() if "\n".join(shown) not in page] == []


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"finished": None, "said": {"": "its clients are no processes"}}, "its clients are no processes"),
        ({"finished": False}, "does not finish"),
        ({"finished": True, "rounds": [0, 1], "sha256": "a"}, "same bits"),
        ({"finished": True, "rounds": [0, 0, 1], "sha256": "a"}, "begins again: same bits"),
        ({"finished": True, "rounds": [0, 1], "sha256": "b"}, "2.50 (+0.500)"),
        ({"finished": True, "rounds": [0, 1], "sha256": "b", "losses": {"1": {"ada": float("nan")}}}, "NaN"),
    ],
)
def test_what_became_of_a_run_under_a_fault(field, told, said):
    _, check = field
    undisturbed = {"sha256": "a", "losses": {"1": {"ada": 2.0}}}
    assert check.outcome({"losses": {"1": {"ada": 2.5}}, **told}, undisturbed) == said


def test_a_killed_process_is_started_again(field, tmp_path):
    from deployments import CELL, Processes

    note = "import os, time; open('{}', 'a').write('x'); time.sleep({})"
    plan = {
        "processes": [
            {"name": name, "command": [sys.executable, "-c", note.format(name, seconds)]}
            for name, seconds in (("server", 600), ("ada", 600))
        ]
    }
    processes = Processes(plan, {CELL: str(tmp_path)}, tmp_path, again_s=0)

    def until_started(name: str, times: int) -> None:
        while not (tmp_path / name).exists() or len((tmp_path / name).read_text()) < times:
            time.sleep(0.05)

    try:
        until_started("ada", 1)
        until_started("server", 1)
        processes.kill("ada")
        until_started("ada", 2)
        assert not processes.ended()
    finally:
        processes.end()


def connected(port: int, tries: int = 1000) -> socket.socket:
    """To a port that is opened before long."""
    for _ in range(tries - 1):
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port))
        time.sleep(0.05)
    return socket.create_connection(("127.0.0.1", port))


def test_a_proxy_counts_both_ways_and_is_there_while_its_server_is(field):
    from deployments import Proxy

    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(server.getsockname()[1])
        with connected(proxy.port) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"12345")
                assert far.recv(16) == b"12345"
                far.sendall(b"123")
                assert near.recv(16) == b"123"
        assert proxy.bytes == {"up": 5, "down": 3}
    while True:  # the server is gone, and so is the proxy's port before long
        try:
            connected(proxy.port, tries=1).close()
        except ConnectionRefusedError:
            break
