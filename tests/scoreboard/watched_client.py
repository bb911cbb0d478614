"""A real client in a process that is watched: what it opens, imports and connects to, its processor time and memory.

    python watched_client.py FOLDER ARGUMENT…  `plait` with these arguments; violations go to FOLDER/harm

Knows nothing of what is hostile.
"""

import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE.parents[1])]

_PROCESSES = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"})
_LOOKED_AT = frozenset({"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "shutil.rmtree"})


class Watch:
    """Notes what a client should not do."""

    def __init__(self, own: tuple[Path, ...], harm: Callable[[str], None], *, port: int) -> None:
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
            if str(self._port) not in str(where):
                self._harm(f"{event} {str(where)[:80]!a}")
                raise PermissionError("no network in a scoreboard")


def memory_bytes(key: str, pid: int) -> int:
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
    from plait.cli.main import main as plait
    from plait.data import cache_directory

    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
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


if __name__ == "__main__":
    main()
