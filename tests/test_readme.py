"""The README's program and its deployment run as they stand, with a reader's own files."""

import argparse
import inspect
import json
import os
import re
import socket
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import plait
from tests.commands import Command, run_command

README = Path(__file__).resolve().parents[1] / "README.md"
AUTHORS = ("ada", "alan", "alonzo", "edsger", "frances", "grace", "john", "katherine")


@pytest.mark.slow
def test_the_readme_s_program_runs_with_a_reader_s_own_file(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    lines = [
        json.dumps({"text": f"{author} writes about machine number {number}.\n" * 40, "author": author})
        for author in AUTHORS
        for number in range(8)
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    short = program.replace("rounds=5", 'rounds=2, base="tiny", seq_len=64, local_steps=2')
    assert short != program
    (tmp_path / "program.py").write_text(short + "print(run.adapter(), run.adapter('ada'))\n")
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = plait.open_run(tmp_path / "runs" / "first")
    assert run.finished
    assert set(run.losses["client"]) == set(AUTHORS)
    assert run.summary["final_held_out_loss"] < run.summary["base_held_out_loss"]
    assert len(set(done.stdout.split()[-2:])) == 2


@pytest.mark.promise
@pytest.mark.slow
def test_the_readme_s_deployment_learns(tmp_path):
    (block,) = re.findall(r"```\n(plait provision.*?)```", README.read_text(), re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    lines = [line.replace("9440", str(port)).split()[1:] for line in block.splitlines()]
    provision, server, alice, bob, _ = lines
    for name, module in (("alice", argparse), ("bob", typing)):
        texts = inspect.getsource(module).split("\n\n\n")
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f"{json.dumps({'text': text})}\n" for text in texts if text.strip())
        )
    assert run_command(*provision, cwd=tmp_path).returncode == 0
    started = [Command(*server, cwd=tmp_path)]
    try:
        started += [Command(*client, "--yes", "--state", "state", cwd=tmp_path) for client in (alice, bob)]
        assert [command.wait(900) for command in started] == [0, 0, 0]
    finally:
        for command in started:
            command.kill()
    run = plait.open_run(tmp_path / "runs" / "first")
    assert run.summary["final_held_out_loss"] < run.summary["base_held_out_loss"]
