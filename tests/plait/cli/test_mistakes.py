"""Mistakes as a new user makes them, and words of the answer that help."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

MISTAKES = {
    "simulat": "did you mean 'simulate'?",
    "simulate --round 3": "'--rounds'",
    "simulate --rank eight": "'eight' is not a valid integer",
    "simulate --epochs 3": "expected local-steps",
    "simulate --rule fedadam": "give --server-optimizer fedadam",
    "simulate --rule fedprox": "give --correction fedprox",
    "simulate --columns Ticket": "FIELD=COLUMN",
    "simulate my.jsonl": "--data my.jsonl",
    "simulate --dp client": "dp-epsilon",
    "simulate --config bad.toml": "did you mean 'rank'?",
    "report": "begin one with `plait simulate`",
    "resume nothing": "'nothing' holds no run",
    "verify": "begin one with `plait simulate`",
    "server": "plait provision DIR --clients NAMES",
    "client": "Missing option '--server'",
    "client --server localhost:1 --data my.jsonl": "--kit DIR",
    "status --server localhost:1": "is the server running",
    "provision": "Missing argument 'DIR'",
    'provision fed --clients ""': "--clients alice,bob,carol",
    "estimate --base nothing": "expected a directory, a GGUF file, a hub id",
    "check-plugin nothing": "expected MODULE:NAME",
    "simulate --rounds-mode async": "a TOML file",
    "simulate --base tiny --data weird.parquet": "name JSON lines .jsonl, JSON .json and CSV .csv",
    "train": "did you mean 'simulate'?",
    "simulate --dataset my.jsonl --base nothing": "did you mean 'tiny'?",
    "simulate --learning_rate 0.1": "did you mean '--learning-rate'?",
    "simulate --device gpu": "expected auto, cpu, cuda, cuda:N or mps",
    "simulate --base tiny --data bad.jsonl": "line 2 of 'bad.jsonl' is not JSON",
    "simulate --base tiny --data other.jsonl": "give --columns text=body",
    "simulate --base tiny --data my.jsonl --clients 500": "expected at least clients = 500",
    "server --stay --rounds 3": "has no option --rounds, which plait server has without --stay",
    "client --insecure --server example.org:9440 --data my.jsonl": "expected a server on this machine",
    "chat nothing": "expected a run directory or a PEFT directory",
    "evidence --attest --kit nothing": "DIR/clients/NAME of `plait provision DIR`",
    "resume nothing --withdraw x": "'nothing' holds no run",
    "submit nothing.toml --server localhost:9440": "cannot read 'nothing.toml'",
    "privacy": "begin one with `plait simulate`",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("my.jsonl").write_text(json.dumps({"text": "hello"}) + "\n")
    Path("bad.toml").write_text("rnak = 4\n")
    Path("bad.jsonl").write_text('{"text": "a"}\nnot json\n')
    Path("weird.parquet").write_text("no")
    Path("other.jsonl").write_text('{"body": "a text"}\n')


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", MISTAKES)
def test_the_answer_helps_and_is_no_traceback(plait, line: str) -> None:
    ran = plait(*shlex.split(line))
    assert ran.code in (1, 2, 3)
    assert MISTAKES[line] in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
