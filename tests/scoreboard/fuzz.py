"""Every parser, fed bytes until it breaks (tests/fuzz): coverage-guided with atheris, otherwise by mutation."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scoreboard.row import Row
from scoreboard.small_federation import TESTS


def run(*, full: bool, scratch: Path) -> Row:
    runs = 100_000 if full else 2_000
    targets = sorted((TESTS / "fuzz").glob("fuzz_*.py"))

    def feed(target: Path) -> tuple[int, str]:
        code = f"import sys; sys.path[:0] = {[str(TESTS), str(TESTS.parent), str(target.parent)]!r}\n"
        code += "from scoreboard.mutations import take_out_named; take_out_named()\n"
        code += f"import runpy; sys.argv[0] = {str(target)!r}; runpy.run_path(sys.argv[0], run_name='__main__')\n"
        command = [sys.executable, "-c", code, f"-atheris_runs={runs}", "-seed=1"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, errors="replace", check=False)
        said = re.findall(r"^(?:Done )?(\d+) (?:in|mutants)", done.stdout + done.stderr, flags=re.MULTILINE)
        if done.returncode or not said:
            return 0, f"{target.stem}: exit code {done.returncode}: {done.stderr[-300:]}"
        return int(said[-1]), ""

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(feed, targets))
    failures = [why for _, why in found if why]
    tried, passed = len(targets) * runs, sum(count for count, _ in found)
    figures = {"parsers": len(targets), "iterations each": f"{runs:,}", "uncaught errors": len(failures)}
    return Row("fuzz iterations, uncaught errors", tried, passed, figures, failures, least=10 * runs)
