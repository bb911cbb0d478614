"""The client in JavaScript against the vectors."""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from plait.config import known_keys
from plait.known_features import own_features
from plait.welcome import WELCOME_KEYS
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
    others = {f"encoder of {wire}" for wire in ("fp32", "bf16", "1", "4")} | {"run of minimal.json"}
    assert set(found) == messages | derived | others


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


def test_it_knows_the_keys_of_a_run_configuration_and_no_others():
    text = (CLIENT / "run.js").read_text()
    keys = text.partition("KEYS = new Set(`")[2].partition("`")[0].split()
    of_features = {key.replace("_", "-") for feature in own_features().values() for key in feature.welcomed}
    assert set(keys) >= WELCOME_KEYS | of_features
    assert not set(keys) & (set(known_keys()) - WELCOME_KEYS)


def test_it_has_as_many_lines_as_its_page_says():
    """Lines of code: neither empty nor comments; the suite and the example are not the client."""
    counted = {}
    for path in sorted({*CLIENT.glob("*.js")} - {CLIENT / "conformance.js", CLIENT / "replay.js"}):
        lines = [line.strip() for line in path.read_text().splitlines()]
        counted[path.stem] = sum(1 for line in lines if line and not line.startswith(("//", "/*", "*")))
    encoder = counted.pop("rate_encoder")
    assert sum(counted.values()) <= 900
    page = (ROOT / "client" / "README.md").read_text()
    assert f"| {sum(counted.values())}, and {encoder} of an encoder for `wire` 1 to 8 |" in page


def test_its_lines_fit_a_page():
    wide = [path for path in CLIENT.glob("**/*.js") if "node_modules" not in path.parts]
    assert not [line for path in wide for line in path.read_text().splitlines() if len(line) > 120]
