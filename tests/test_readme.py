"""The README's program runs as it stands, on another base and with a file of the reader's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plait

README = Path(__file__).resolve().parents[1] / "README.md"
AUTHORS = ("ada", "alan", "alonzo", "edsger", "frances", "grace", "john", "katherine")


@pytest.mark.slow
def test_the_readme_s_program_runs_with_a_reader_s_own_file(tmp_path: Path) -> None:
    program = next(block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    assert 'data_files="my.jsonl"' in program
    assert 'base="smollm2-135m"' in program
    lines = [
        json.dumps({"text": f"{author} writes about machine number {number}.\n" * 40, "author": author})
        for author in AUTHORS
        for number in range(8)
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    plait.simulate(
        tmp_path / "my.jsonl",
        partition="natural:author",
        base="tiny",
        rounds=1,
        out=tmp_path / "runs/fedavg",
        quiet=True,
    )
    (tmp_path / "program.py").write_text(
        program.replace('base="smollm2-135m"', 'base="tiny", seq_len=64, local_steps=2').replace("rounds=5", "rounds=2")
        + "print(repr(run))\n"
    )
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = plait.open_run(tmp_path / "runs" / "mom")
    assert run.finished
    assert set(run.losses["client"]) == set(AUTHORS)
    assert run.summary["final_held_out_loss"] < run.summary["base_held_out_loss"]
    assert "plait.Result 'runs/mom'" in done.stdout
