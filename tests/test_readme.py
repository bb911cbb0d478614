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


def test_the_readme_has_at_most_120_lines() -> None:
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.slow
def test_the_readme_s_program_runs_with_a_reader_s_own_file(tmp_path: Path) -> None:
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
