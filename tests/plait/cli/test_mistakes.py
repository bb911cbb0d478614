"""Mistakes as a new user makes them, and words of the answer that help."""

import json
import shlex
from pathlib import Path

import pytest

MISTAKES = {
    "simulat": "did you mean 'simulate'?",
    "simulate --round 3": "'--rounds'",
    "simulate --rank eight": "'eight' is not a valid integer",
    "simulate --local-epochs 3": "expected epochs",
    "simulate --epochs 3 --local-steps 4": "expected one of them",
    "simulate --optimizer sgd": "reveal gradients",
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
    "simulate --base tiny --data my.jsonl --split tset": "split is 'tset', expected one of 'my.jsonl': tra",
    "simulate --base tiny --data my.jsonl --split train[1:": "split has 'train[1:', expected TRAIN or TRAIN,",
    "simulate --base tiny --data memory:mine": "data is 'memory:mine', an object in a Python program",
    "simulate --base tiny --data folder": "'folder' holds 1 of jsonl",
    "simulate --base tiny --data my.jsonl --fleet nowhere.toml": "cannot read 'nowhere.toml': No such file",
    "simulate --learning-rate=nan": "learning-rate is nan",
    "fetch first none --server localhost:1 --max-gb=-1": "max-gb",
    "chat first --temperature=-inf": "temperature",
    "server --grace-s=inf": "grace-s is inf, expected a finite number",
    "server --insecure --kit kit": "give one of them",
    "server --insecure --data my.jsonl": "data is given",
    "server --kit nowhere": "nowhere' is not a directory: give DIR/server",
    "server --insecure --listen 0.0.0.0:9440 --base tiny": "can be reached from other machines",
    "server --insecure --min-clients 2 --clients-per-round 3": "expected at most clients = 2",
    "client --insecure --server localhost:9 --state state --data nothing.jsonl": "cannot read",
    "client --insecure --server localhost:9 --state state --data empty.jsonl": "no record",
    "client --insecure --server localhost:9 --state state --data my.jsonl --device cuda:99": "this machine has none",
    "provision fed --clients ../etc": "client name is '../etc', expected letters and digits of any script",
    "provision fed --clients a,A": "client name 'A' differs from 'a' only in case",
    "provision fed --revoke bob --clients c": "--revoke is given with other options",
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
    Path("empty.jsonl").touch()
    Path("folder").mkdir()
    Path("folder/my.jsonl").write_text(json.dumps({"text": "hello"}) + "\n")
    Path("folder/notes.txt").write_text("a note")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", MISTAKES)
def test_the_answer_helps_and_is_no_traceback_and_nothing_has_begun(plait, line):
    ran = plait(*shlex.split(line))
    assert ran.code in (1, 2, 3)
    assert MISTAKES[line] in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert "connecting" not in ran.err
    assert not [place for place in ("runs", "fed") if Path(place).exists()]
