"""The scoreboard: what plait withstands, tested and counted.

    python tests/scoreboard/run.py                    every row, in full (`make scoreboard`)
    python tests/scoreboard/run.py --quick            a part of each, as the tests run it
    python tests/scoreboard/run.py --rows soak,fuzz   some rows
    python tests/scoreboard/run.py --without NAME     with a defence removed (mutations.py); the row must fail

Each row prints one JSON line; a table follows at the end. The exit code is 0 if all rows passed.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]
# Processes that are forked find the same modules.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
# What gRPC's core says of every handshake that fails would drown the rows.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from scoreboard.of_tests import OF_TESTS, row_of_tests  # noqa: E402
from scoreboard.row import HEADER, Row  # noqa: E402

# First `soak`, in a process that has nothing behind it: what other rows leave to be freed would blur its memory.
ROWS = (
    "soak", "malformed", "forged", "killed", "clients_killed", "network", "straggler", "door", "members", "floods",
    "names", "canaries", "planted", "hostile", "hostile_node", "directories", "privacy", "private_records",
    "one_member", "liar", "server_alone", "sums", "evidence", "sizes", "fuzz",
)  # fmt: skip
# Rows that stand in the module of another one, as functions of their own names.
BESIDE = {"clients_killed": "killed", "straggler": "killed", "sizes": "sums"}


def main() -> int:
    """Run the rows that were asked for."""
    parser = argparse.ArgumentParser(description="what plait withstands, tried and counted")
    parser.add_argument("--quick", action="store_true", help="a part of each row")
    parser.add_argument("--rows", default=",".join(ROWS), help="which ones")
    parser.add_argument("--without", default="", help="a defence to take out first")
    options = parser.parse_args()
    if options.without:
        # Processes that a row starts take it out too.
        os.environ["PLAIT_SCOREBOARD_WITHOUT"] = options.without
        importlib.import_module("scoreboard.mutations").take_out_named()
    done: list[Row] = []
    for name in options.rows.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"plait-{name}-") as scratch:
            try:
                row = _row(name, full=not options.quick, scratch=Path(scratch))
            except Exception as error:
                traceback.print_exc()
                row = Row(name, 1, 0, failures=[f"{type(error).__name__}: {error}"])
        done.append(row)
        print(row.line(time.perf_counter() - started), flush=True)
    print(f"\n{HEADER}")
    for row in done:
        print(row.cells())
    return 0 if all(row.ok for row in done) else 1


def _row(name: str, *, full: bool, scratch: Path) -> Row:
    if name in OF_TESTS:
        return row_of_tests(name, scratch)
    module = importlib.import_module(f"scoreboard.{BESIDE.get(name, name)}")
    return getattr(module, name if name in BESIDE else "run")(full=full, scratch=scratch)


if __name__ == "__main__":
    sys.exit(main())
