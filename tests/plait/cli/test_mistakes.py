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
    "simulate --epochs 3": "expected local-steps",
    "simulate --rule fedadam": "give --server-optimizer fedadam",
    "simulate --rule fedprox": "give --correction fedprox",
    "simulate --wire 9": "expected fp32, bf16 or 1 to 8 bits",
    "simulate --columns Ticket": "FIELD=COLUMN",
    "simulate my.jsonl": "--data my.jsonl",
    "simulate --partition dirichlet:-1": "dirichlet:ALPHA",
    "simulate --partition by-author": "expected one of iid, natural",
    "simulate --dp client": "dp-epsilon",
    "simulate --config bad.toml": "did you mean 'rank'?",
    "simulate --config nota.toml": "is not TOML",
    "simulate --own-share 2": "expected less than 1",
    "simulate --rounds-mode async": "expected a TOML file of devices",
    "report": "begin one with `plait simulate`",
    "resume nothing": "'nothing' holds no run",
    "verify": "begin one with `plait simulate`",
    "server": "plait provision DIR --clients NAMES",
    "client": "Missing option '--server'",
    "client --server localhost:1 --data my.jsonl": "--kit DIR",
    "status --server localhost:1": "is the server running",
    "provision": "Missing argument 'DIR'",
    'provision fed --clients ""': "--clients alice,bob,carol",
    "provision fed --clients a,a --server-name localhost": "'a' is given twice",
    "estimate --base nothing": "expected a directory, a GGUF file, a hub id",
    "check-plugin nothing": "expected MODULE:NAME",
    "train": "did you mean 'simulate'?",
    "simulate --dataset my.jsonl --base nothing": "did you mean 'tiny'?",
    "simulate --learning_rate 0.1": "did you mean '--learning-rate'?",
    "simulate --device gpu": "expected auto, cpu, cuda, cuda:N or mps",
    "simulate --base tiny --data empty.jsonl": "'empty.jsonl' holds no record, expected one JSON object per line",
    "simulate --base tiny --data bad.jsonl": "line 2 of 'bad.jsonl' is not JSON",
    "simulate --base tiny --data other.jsonl": "give --columns text=body",
    "simulate --base tiny --data folder": "'folder' holds no file, expected files of data or of text",
    "simulate --base tiny --data weird.parquet": "name JSON lines .jsonl, JSON .json and CSV .csv",
    "simulate --base tiny --data my.jsonl --clients 500": "expected at least clients = 500",
    "simulate --base tiny --secure-aggregation --clients 2": "in a sum of two each client knows the other's part",
    "simulate --base tiny --lr-schedule cosin": "expected 'auto', 'constant', 'linear' or 'slope'",
    "server --stay --rounds 3": "has no option --rounds, which plait server has without --stay",
    "server --insecure --listen 0.0.0.0:9440": "expected a loopback address (127.0.0.1) or --kit",
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
    Path("nota.toml").write_text("rank = = 4\n")
    Path("empty.jsonl").touch()
    Path("bad.jsonl").write_text('{"text": "a"}\nnot json\n')
    Path("other.jsonl").write_text('{"body": "a text"}\n')
    Path("weird.parquet").write_text("no")
    Path("folder").mkdir()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", MISTAKES)
def test_the_answer_helps_and_is_no_traceback(plait, line: str) -> None:
    ran = plait(*shlex.split(line))
    assert ran.code in (1, 2, 3)
    assert MISTAKES[line] in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
