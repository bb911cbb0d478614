"""The client in JavaScript against the vectors."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from plait.config import RunConfig
from plait.wire.welcome import WELCOME_KEYS
from tests.javascript import copied

ROOT = Path(__file__).parents[2]
CLIENT, VECTORS = ROOT / "client" / "js", ROOT / "tests" / "vectors"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """A function that gives the outcome of each vector in a folder."""
    program = copied(tmp_path_factory.mktemp("js")).parents[1] / "conformance.js"

    def run(folder: Path, *arguments: str) -> dict[str, str]:
        command = [shutil.which("node"), program, folder, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line.split("\t") for line in ran.stdout.splitlines()]
        assert ran.returncode == any(not line[2].startswith("passed") for line in lines), ran.stderr
        return {name: result for _, name, result in lines}

    return run


def test_every_vector_passes(outcomes):
    found = outcomes(VECTORS)
    assert {name for name, result in found.items() if result != "passed"} == set()
    messages, derived = ({path.stem for path in VECTORS.glob(glob)} for glob in ("*.hex", "derived/*.json"))
    wires = ("fp32", "bf16", "1", "4", "8 with one large number")
    others = {f"encoder of {wire}" for wire in wires} | {"run of minimal.json"}
    masks = {name for name in messages if "mask" in name} | {"masks", "roster", "rotation", "shares"}
    assert set(found) == (messages | derived | others) - masks


def test_the_minimal_level_needs_no_other(outcomes):
    assert set(outcomes(VECTORS, "minimal")) < set(outcomes(VECTORS, "codecs"))


@pytest.fixture(scope="module")
def mutated(tmp_path_factory) -> Path:
    """The vectors, with one digit of the bytes, or of what must come out, changed in each; in each message of a run."""
    folder = tmp_path_factory.mktemp("mutated") / "vectors"
    shutil.copytree(VECTORS, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in folder.glob("*.hex"):
        text = path.read_text().rstrip()
        path.write_text(text[:-1] + f"{int(text[-1], 16) ^ 1:x}\n")
    for path in folder.glob("derived/*.json"):
        said = json.loads(path.read_text())
        said["expected"] = _changed(said["expected"])
        path.write_text(json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True))
    run = folder / "whole" / "minimal.json"
    for name, other in _with_one_digit_changed(json.loads(run.read_text())):
        run.with_name(f"{name}.json").write_text(json.dumps(other))
    run.unlink()
    return folder


def _with_one_digit_changed(run):
    for number, call in enumerate(run["calls"]):
        # What a server answers to an upload is for the client's operator.
        for side in ("node", "server") if call["call"] == "Attend" else ("node",):
            for place, text in enumerate(call.get(side, [])):
                at = len(text) - 1 if side == "node" else min(20, len(text) - 1)
                other = copy.deepcopy(run)
                other["calls"][number][side][place] = f"{text[:at]}{int(text[at], 16) ^ 1:x}{text[at + 1 :]}"
                yield f"{number}-{side}-{place}", other


def _changed(value):
    if isinstance(value, dict):
        first = min(value)
        return value | {first: _changed(value[first])}
    if isinstance(value, list):
        return [_changed(value[0]), *value[1:]]
    return f"{value[:-1]}{'0' if value[-1] != '0' else '1'}" if isinstance(value, str) else value + 1


def test_each_mutated_vector_fails(outcomes, mutated):
    found = {name: result for name, result in outcomes(mutated).items() if not name.startswith("encoder of")}
    assert {name for name, result in found.items() if result == "passed"} == set()


TYPES = {
    "isText": str, "isNumber": float, "whole(0, Number.MAX_SAFE_INTEGER)": int, "isFlag": bool,
    "either(isNumber, oneOf('auto'))": float, "either(isNumber, oneOf('adaptive'))": float,
    "either(isCount, oneOf('auto'))": int,
}  # fmt: skip
"""What is written before the keys of a type."""


def test_it_knows_the_keys_of_a_run_configuration_with_their_types_and_no_others():
    table = (CLIENT / "settings.js").read_text().partition("CONFIGURATION = new Map([")[2].partition("\n])")[0]
    found = {}
    for row in table.split("...keysOf(")[1:]:
        (written,) = (each for each in TYPES if row.startswith(f"{each}, "))
        found |= dict.fromkeys(re.split(r"[`']", row.removeprefix(f"{written}, "))[1].split(), TYPES[written])
    assert set(found) == WELCOME_KEYS
    for key, kind in found.items():
        default = RunConfig.model_fields[key.replace("-", "_")].default
        assert isinstance(default, kind) or default in ("auto", "adaptive"), key


def test_a_hostile_server_is_refused(outcomes, tmp_path_factory):
    """Two hundred configurations, settings and layouts of wrong types and sizes, in 300 MB of memory."""
    program = copied(tmp_path_factory.mktemp("js")).parents[1] / "hostile.js"
    shutil.copy(Path(__file__).with_name("hostile.js"), program)
    command = [shutil.which("node"), "--max-old-space-size=200", program]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = ran.stdout.splitlines()
    assert ran.returncode == 0, [line for line in said if not line.endswith("refused")] or ran.stderr
    assert len(said) > 200
