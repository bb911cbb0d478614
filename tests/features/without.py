"""Takes each feature away from a copy of the tree, and sees that everything else goes on.

    python tests/features/without.py                 every feature in turn
    python tests/features/without.py serving         this one
    python tests/features/without.py --of-day        the three that are due today

A feature is its folders, in plait/features and tests/features. Without them the import contracts hold, the unit tests
pass that do not name it (by its folder, one of its verbs, settings or public names) and are not of the whole tree (the
mark `whole`), and a run on `tiny` ends with the bits of the whole tree. The unit tests of a day are those of the
packages that know a run's settings, verbs and events.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from plait.feature import Feature
from plait.known_features import own_features

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
A_DAY = 3
A_DAYS_TESTS = ("tests/features", "tests/plait/api", "tests/plait/cli", "tests/plait/report")
RUN = (
    "simulate", "--base", "tiny", "--clients", "2", "--rounds", "2", "--local-steps", "2", "--batch-size", "2",
    "--seq-len", "32", "--dtype", "float32", "--threads", "1", "--json", "--out",
)  # fmt: skip


def main(wanted: list[str]) -> int:
    """Take away those features, or all; returns 1 if anything fails without one of them."""
    names = sorted(own_features())
    if of_day := wanted == ["--of-day"]:
        first = A_DAY * datetime.now(UTC).toordinal()
        wanted = sorted({names[(first + number) % len(names)] for number in range(A_DAY)})
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        tests = A_DAYS_TESTS if of_day else ("tests",)
        whole = copied(Path(scratch) / "whole")
        expected = bits(whole)
        for name in wanted or names:
            started = time.monotonic()
            faults = faults_without(own_features()[name], copied(Path(scratch) / name), tests, expected)
            wrong += bool(faults)
            took_s = time.monotonic() - started
            print(f"without {name}: {'; '.join(faults) or 'all goes on'} ({took_s:.0f} s)", flush=True)
    return 1 if wrong else 0


def copied(place: Path) -> Path:
    """The files of the working tree that git knows or would add, in another place."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, place / name)
    return place


def faults_without(feature: Feature, tree: Path, folders: Sequence[str], expected: str) -> list[str]:
    """What fails once a feature is taken away from a tree."""
    for folder in (tree / "plait/features" / feature.name, tree / "tests/features" / feature.name):
        shutil.rmtree(folder, ignore_errors=True)
    naming = [str(file.relative_to(tree)) for file in resting_on(feature, tree)]
    tests = (
        *folders,
        "-m",
        "not gpu and not slow and not whole",
        "--numprocesses",
        "auto",
        *(f"--ignore={file}" for file in naming),
    )
    checks = {"import contracts": ("lint-imports",), "unit tests": ("pytest", "-x", "-p", "no:cacheprovider", *tests)}
    faults = [f"{what} fail" for what, command in checks.items() if not passes(tree, *command)]
    if bits(tree) != expected:
        faults.append("the adapter has other bits")
    return faults


def resting_on(feature: Feature, tree: Path) -> list[Path]:
    """The tests of a tree that name a feature, or import one that does."""
    files = list((tree / "tests").rglob("*.py"))
    found = [file for file in files if names_it(feature, file)]
    for named in found:  # which grows
        module = ".".join(named.relative_to(tree / "tests").with_suffix("").parts)
        imports = re.compile(rf"^\s*(from|import) (tests\.)?{re.escape(module)}\b", re.MULTILINE)
        found += [file for file in files if file not in found and imports.search(file.read_text(errors="replace"))]
    return found


def names_it(feature: Feature, file: Path) -> bool:
    """Whether a test names a feature."""
    options = {name.replace("_", "-") for name in feature.fields}
    words = {*feature.verbs, *feature.names, *feature.fields, *feature.optimizers, *options}
    words |= {name for name in feature.objectives if name.islower()}.union(*feature.values.values())
    found = [rf"features[./]{feature.name}\b"]
    found += [rf"[\"'](--)?{word}[\"':]|plait[. ]{word}\b" for word in map(re.escape, words)]
    # In a line of arguments.
    found += [rf"[\"']{verb} " for verb in map(re.escape, feature.verbs)]
    found += [rf" --{option} " for option in map(re.escape, options)]
    return re.search("|".join(found), file.read_text(errors="replace")) is not None


def passes(tree: Path, *command: str) -> bool:
    """Whether a command of this environment ends well in a tree; if not, what it said last is shown."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=tree, env=environment, capture_output=True, check=False)
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-4000:], done.stderr.decode(errors="replace")[-1000:], sep="\n")
    return done.returncode == 0


def bits(tree: Path) -> str:
    """SHA-256 of the adapter that a run with the code of a tree ends with; empty if it fails."""
    if not passes(tree, "plait", *RUN, str(tree / "run")):
        return ""
    return hashlib.sha256((tree / "run/adapter/adapter_model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
