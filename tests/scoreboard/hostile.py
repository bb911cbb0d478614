"""A hostile server: whatever it sends, a client reveals nothing, does not hang, opens nothing, and stays up.

Specifications, directories, settings, broadcasts and run configurations go to a client's own code in a separate
process, which is watched (`hostile_client.py`); attacks on the wire go to a real `plait client` over gRPC
(`hostile_wire.py`).
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from scoreboard.hostile_client import cpu_s
from scoreboard.hostile_specs import Case, Target
from scoreboard.hostile_tasks import all_cases
from scoreboard.hostile_wire import over_grpc
from scoreboard.row import Row, one_in

MOST_CPU_S = 1.0
MOST_BYTES = 256 << 20
# A client that thinks for so long has no answer; it is killed and another one begins.
_GIVEN_UP_CPU_S = 5.0
_PATIENCE_S = 600.0
_HONEST_EVERY = 40
# At least one that notices each defence taken out (mutations.py).
_ALWAYS = frozenset({
    "describe: rank 64", "train: local_steps is 5", "welcome: one step of one sequence", "spec: bias is a table",
    "spec: rank 4,000 on every layer", "welcome: where to write", "welcome: a trainer",
})  # fmt: skip


class Client:
    """The watched process; begun anew when it has to be killed."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None
        self.begun = 0

    def ask(self, line: str) -> Mapping[str, object] | None:
        """What it says to a line; None if it had to be killed, or died."""
        if self._process is None:
            self.begun += 1
            script = Path(__file__).with_name("hostile_client.py")
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(self._scratch / str(self.begun))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            if self._hear(most_s=_PATIENCE_S) is None:
                raise RuntimeError("the client does not begin")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            said = None
        else:
            said = self._hear(most_s=_GIVEN_UP_CPU_S if line.isdigit() else _PATIENCE_S)
        if said is None:
            self.end()
        return said

    def _hear(self, *, most_s: float) -> Mapping[str, object] | None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        until_cpu_s, until_s = cpu_s(process.pid) + most_s, time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s and cpu_s(process.pid) < until_cpu_s:
            if select.select([process.stdout], [], [], 0.2)[0]:
                line = process.stdout.readline()
                return json.loads(line) if line else None
        return None

    def end(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None


def in_process(scratch: Path, cases: Mapping[int, Case], figures: dict[str, float]) -> Iterator[str]:
    """What was wrong with each case that did not hold; figures of all go into `figures`."""
    client = Client(scratch)
    try:
        for done, (number, case) in enumerate(cases.items(), 1):
            said = client.ask(str(number))
            if wrong := _wrong(said):
                yield f"{case.name}: {wrong}"
            if said is not None:
                for what in ("cpu_s", "bytes"):
                    figures[what] = max(figures.get(what, 0.0), float(said[what]))  # pyright: ignore[reportArgumentType]
            if done % _HONEST_EVERY == 0 or done == len(cases):
                honest = client.ask("honest")
                if honest is None or not honest["right"]:
                    yield f"{case.name}: an honest task after it is not done right"
    finally:
        client.end()


def _wrong(said: Mapping[str, object] | None) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if said is None:
        return f"no answer after {_GIVEN_UP_CPU_S:.0f} s of processor time, or the process died"
    if said["harm"]:
        return f"the client does {said['harm']}"
    if not said["said"]:
        return "the client did what it was told"
    if str(said["said"]).startswith("!"):
        return f"an uncaught error, {said['said']}"
    if float(said["cpu_s"]) > MOST_CPU_S:  # pyright: ignore[reportArgumentType]
        return f"{said['cpu_s']:.1f} s of processor time"
    if int(said["bytes"]) > MOST_BYTES:  # pyright: ignore[reportArgumentType]
        return f"{int(said['bytes']) >> 20} MiB"  # pyright: ignore[reportArgumentType]
    return ""


def run(*, full: bool, scratch: Path) -> Row:
    every = dict(enumerate(all_cases()))
    names = {case.name for case in every.values()}
    assert len(names) == len(every)
    assert names >= _ALWAYS
    cases = {number: case for number, case in every.items() if full or one_in(5, case.name) or case.name in _ALWAYS}
    figures: dict[str, float] = {}
    failures = list(in_process(scratch / "cases", cases, figures))
    wire = over_grpc(scratch / "wire", full=full)
    failures += [f"{name}: {wrong}" for name, wrong in wire.items() if wrong]
    tried = len(cases) + len(wire)
    kinds = {target.value: sum(case.target is target for case in cases.values()) for target in Target}
    return Row(
        "hostile server",
        tried=tried,
        passed=tried - len({failure.partition(": ")[0] + failure for failure in failures}),
        figures={
            **kinds,
            "over gRPC": len(wire),
            "CPU": f"{figures.get('cpu_s', 0):.2f} s at most",
            "memory": f"{int(figures.get('bytes', 0)) >> 20} MiB at most",
        },
        failures=failures,
        least=300 if full else 60,
    )
