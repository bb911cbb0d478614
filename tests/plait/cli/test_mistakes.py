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
    "simulate --rank 0": "rank is 0, expected greater than or equal to 1",
    "simulate --rounds -1": "rounds is -1",
    "simulate --epochs 3": "expected local-steps",
    "simulate --rule fedadam": "give --server-optimizer fedadam",
    "simulate --rule fedprox": "give --correction fedprox",
    "simulate --rule medain": "did you mean 'median'?",
    "simulate --method lorra": "did you mean 'lora'?",
    "simulate --method full:x=1": "it has no options",
    "simulate --wire 9": "expected fp32, bf16 or 1 to 8 bits",
    "simulate --wire int8": "expected fp32, bf16 or 1 to 8 bits",
    "simulate --columns Ticket": "FIELD=COLUMN",
    "simulate --data nothing.csv": "cannot read 'nothing.csv'",
    "simulate my.jsonl": "--data my.jsonl",
    "simulate --partition dirichlet:-1": "dirichlet:ALPHA",
    "simulate --partition by-author": "expected one of iid, natural",
    "simulate --clients 0": "clients is 0",
    "simulate --clients 3 --tree 2x2": "expected 4 clients",
    "simulate --dp yes": "expected 'off', 'client' or 'record'",
    "simulate --dp client": "dp-epsilon",
    "simulate --config nothing.toml": "cannot read 'nothing.toml'",
    "simulate --config bad.toml": "did you mean 'rank'?",
    "simulate --config nota.toml": "is not TOML",
    "simulate --dtype fp16": "did you mean 'float16'?",
    "simulate --seq-len 4": "greater than or equal to 8",
    "simulate --batch-size 0": "batch-size is 0",
    "simulate --server-optimizer adam": "did you mean 'fedadam'?",
    "simulate --threads -2": "threads is -2",
    "simulate --keep yes": "did you mean 'best'?",
    "simulate --own-share 2": "expected less than 1",
    "simulate --norm-bound big": "expected auto, off",
    "simulate --rounds-mode async": "expected a TOML file of devices",
    "report": "begin one with `plait simulate`",
    "report nothing": "'nothing' holds no run",
    "resume": "begin one with `plait simulate`",
    "resume nothing": "'nothing' holds no run",
    "verify": "begin one with `plait simulate`",
    "verify nothing": "'nothing' holds no run",
    "privacy nothing": "'nothing' holds no run",
    "server": "plait provision DIR --clients NAMES",
    "client": "Missing option '--server'",
    "client --server localhost:1 --data my.jsonl": "--kit DIR",
    "client --kit nothing --server localhost:9440 --data my.jsonl": "DIR/clients/NAME",
    "status --server nothing": "expected HOST:PORT",
    "status --server localhost:1": "is the server running",
    "provision": "Missing argument 'DIR'",
    'provision fed --clients ""': "--clients alice,bob,carol",
    "provision fed --clients a,a --server-name localhost": "'a' is given twice",
    "provision fed --clients a": "server name is missing",
    "estimate --base nothing": "expected a directory, a GGUF file, a hub id",
    "estimate --base tiny --rank 1000000": "less than or equal to 4096",
    "check-plugin nothing": "expected MODULE:NAME",
    "check-plugin nothing:x": "there is no module 'nothing'",
    "help simulat": "did you mean 'simulate'?",
    "doctor --verbos": "No such option '--verbos'",
    "--verson": "'--version'",
    "cancel": "Missing argument 'RUN'",
    "fetch": "Missing argument 'RUN'",
    "submit": "Missing argument 'CONFIG.toml'",
    "flowertune": "finance|medical|code|general",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("my.jsonl").write_text(json.dumps({"text": "hello"}) + "\n")
    Path("bad.toml").write_text("rnak = 4\n")
    Path("nota.toml").write_text("rank = = 4\n")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", MISTAKES)
def test_the_answer_helps_and_is_no_traceback(plait, line: str) -> None:
    ran = plait(*shlex.split(line))
    assert ran.code in (1, 2, 3)
    assert MISTAKES[line] in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
