"""A client in a separate process, watched: what it opens, imports and connects to, its processor time and memory.

    python hostile_client.py FOLDER            cases by number on standard input, one JSON line each
    python hostile_client.py FOLDER ARGUMENT…  `plait` with these arguments; violations go to FOLDER/harm

Knows nothing of what is hostile.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE.parents[1])]

MOST_ADDRESS_SPACE = 12 << 30
_PROCESSES = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"})
_LOOKED_AT = frozenset({"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "shutil.rmtree"})


class Watch:
    """Notes what a client should not do."""

    def __init__(self, own: tuple[Path, ...], harm: Callable[[str], None], *, port: int = 0) -> None:
        python = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *filter(None, sys.path)}
        kernel = (Path("/proc"), Path("/sys"), Path("/dev"))
        self._own = tuple(str(path.resolve()) for path in (*own, *map(Path, python), *kernel, HERE.parents[1]))
        self._harm = harm
        self._port = port
        self.on = False
        sys.addaudithook(self._hear)

    def _may_touch(self, path: str, event: str) -> bool:
        if path.startswith(self._own):
            return True
        # `os.makedirs` asks for every directory above.
        return event == "os.mkdir" and any(own.startswith(path.rstrip("/") + "/") for own in self._own)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event in _LOOKED_AT:
            path = arguments[0]
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            if isinstance(path, (str, Path)) and not self._may_touch(os.path.realpath(path), event):
                self._harm(f"{event} {str(path)[:80]!a}")
        elif event in _PROCESSES:
            self._harm(f"{event} {str(arguments[:1])[:80]!a}")
        elif event == "import" and str(arguments[0]).startswith("hostile_trainer"):
            self._harm(f"import {arguments[0]}")
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
            where = arguments[1] if event == "socket.connect" else arguments
            if not (self._port and str(self._port) in str(where)):
                self._harm(f"{event} {str(where)[:80]!a}")
                raise PermissionError("no network in a scoreboard")


@contextmanager
def without_address_space(most: int):
    """A process that asks for more memory than this is told that there is none."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def memory_bytes(key: str, pid: int | str = "self") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) << 10


def cpu_s(pid: int) -> float:
    """Processor time of a process so far; without end if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Be the client that the command line asks for."""
    if os.environ.get("PLAIT_SCOREBOARD_WITHOUT"):
        from scoreboard.mutations import take_out_named

        take_out_named()
    folder = Path(sys.argv[1])
    if sys.argv[2:]:
        _command(folder, sys.argv[2:])
    else:
        _cases(folder)


def _command(folder: Path, arguments: list[str]) -> None:
    from plait.cli.main import main as plait
    from plait.data import cache_directory

    port = next(argument for argument in arguments if argument.startswith("127.0.0.1:")).rpartition(":")[2]

    def note(harm: str) -> None:
        watch.on = False  # what is written here is ours
        with (folder / "harm").open("a") as file:
            file.write(f"{harm}\n")
        watch.on = True

    watch = Watch((folder, cache_directory()), note, port=int(port))
    watch.on = True
    sys.argv = ["plait", *arguments]
    plait()


def _cases(folder: Path) -> None:
    # What libraries print must not get between the lines.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from scoreboard.hostile_desk import Desk
    from scoreboard.hostile_tasks import all_cases

    from plait.data import cache_directory

    harm: list[str] = []
    desk = Desk(folder)
    first = desk.honest_answer()
    watch = Watch((folder, cache_directory()), harm.append)
    cases = all_cases()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "honest":
            print(json.dumps({"right": desk.honest_answer() == first}), file=answers, flush=True)
            continue
        case = cases[int(line)]
        made = case.make(desk.honest)
        desk.before(case.target)
        harm.clear()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        at_rest, started = memory_bytes("VmRSS"), time.process_time()
        watch.on = True
        with without_address_space(MOST_ADDRESS_SPACE):
            try:
                said = desk.hand(case.target, made)
            except Exception as error:
                said = f"! {type(error).__name__}: {error}"
        watch.on = False
        found = {
            "said": said[:300],
            "cpu_s": time.process_time() - started,
            "bytes": memory_bytes("VmHWM") - at_rest,
            "harm": harm[:3],
        }
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
