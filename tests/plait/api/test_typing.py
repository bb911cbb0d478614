"""A program outside the repository is checked by pyright in strict mode as any installed package's user would be."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

TYPED = """
from pathlib import Path

import plait
from plait.ledger.events import Evaluated


def stop_when_good(event: plait.Event) -> plait.Stop | None:
    return plait.Stop.END if isinstance(event, Evaluated) and event.loss < 1.0 else None


def main() -> int:
    rows = [{"text": "a", "author": "b"}]
    run = plait.simulate(rows, rounds=2, rank=4, bits=1.5, callbacks=[stop_when_good, plait.EarlyStopping(patience=2)])
    place: Path = run.adapter("alice")
    again: plait.Result = plait.resume(run, data=rows)
    with plait.Server(clients=2, base="tiny", insecure=True) as server:
        client = plait.Client(rows, server=server.address, insecure=True, name="alice", allow_plugins=["my_loss"])
        client.start()
        run = server.wait(timeout_s=60)
    found: plait.EvaluationResult = plait.evaluate(run, rows, max_sequences=8)
    exported: plait.Export = plait.export(run, "served", to="gguf", gguf_type="f16")
    print(found.adapter.loss - found.base.loss, exported.commands[0].text, exported.directory.name)
    print(place, run.path, again.summary["final_held_out_loss"])
    return len(again.losses) + len(plait.compare(run, "runs/other").runs)
"""
WRONG = """
import plait

plait.simulate("my.jsonl", roundz=2)
plait.simulate("my.jsonl", lr_schedule="triangular")
plait.simulate("my.jsonl", callbacks=[plait.EarlyStopping(patience="two")])
plait.open_run("runs/a").adaptr()
plait.simulat("my.jsonl")
plait.export("runs/a", "served", to="onnx")
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What pyright says of each program; one start reads plait for all of them."""
    project = tmp_path_factory.mktemp("project")
    readme = next(block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    readme = readme.replace("(updates, ctx):", "(updates: plait.Updates, ctx: plait.RoundContext) -> object:")
    programs = {"typed.py": TYPED, "readme.py": readme, "wrong.py": WRONG}
    for name, text in programs.items():
        (project / name).write_text(text)
    strict = {"typeCheckingMode": "strict", "reportMissingTypeStubs": False, "include": list(programs)}
    (project / "pyrightconfig.json").write_text(json.dumps(strict))
    # Where plait is installed from a checkout, its root is on the path.
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", "."]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] == len(programs)
    found = [each for each in said["generalDiagnostics"] if each["severity"] == "error"]
    return {name: [each for each in found if Path(each["file"]).name == name] for name in programs}


@pytest.mark.slow
def test_a_strictly_typed_program_needs_no_exception(errors):
    assert errors["typed.py"] == []


@pytest.mark.slow
def test_the_readme_s_program_has_no_error_but_in_libraries_without_types(errors):
    rules = {error.get("rule") for error in errors["readme.py"]}
    assert rules <= {"reportUnknownMemberType", "reportUnknownVariableType", "reportUnusedExpression"}


@pytest.mark.slow
def test_a_mistake_is_an_error_before_the_program_runs(errors):
    lines = {error["range"]["start"]["line"] for error in errors["wrong.py"]}
    assert lines == {3, 4, 5, 6, 7, 8}
