"""Planted files: modules and programs in the working directory, anything in a cache that others can write.

None may be run or trusted. A planted file records its name when it runs, or contains something false. Victims are
separate processes, started as an operator starts them: not from this directory.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from scoreboard.row import Row

TESTS = Path(__file__).resolve().parents[1]
STRANGER = 65534  # nobody, on every system
MODULES = (
    "pip", "numpy", "torch", "typer", "json", "zipfile", "pickle", "runpy", "multiprocessing", "wave", "netrc",
    "sitecustomize", "usercustomize", "server", "client",
)  # fmt: skip
PROGRAMS = ("c++", "g++", "cc1plus", "as", "ld", "pip", "latex", "uname")
_VERBS = "PLAIT_SCOREBOARD_VERBS"
_VICTIM = """import sys
sys.path[:0] = {paths!r}
if __name__ == "__main__":
    from scoreboard.mutations import take_out_named
    take_out_named()
    from scoreboard.planted import victim
    victim(*sys.argv[1:])
"""
_SOURCE = 'extern "C" int honest() { return 1; }\n'
_PLANTED_SOURCE = """#include <stdio.h>
__attribute__((constructor)) static void run() {{
    FILE *file = fopen("{marker}", "a");
    fputs("library ", file);
    fclose(file);
}}
extern "C" int honest() {{ return 0; }}
"""


def run(*, full: bool, scratch: Path) -> Row:
    """Everything, in the quick form with one command of `plait` instead of three."""
    scratch.chmod(0o755)
    os.environ[_VERBS] = "--version methods doctor" if full else "--version"
    found = dict([*_from_victim(scratch, "working_directory"), *_from_victim(scratch, "cache")])
    if os.geteuid() == 0:
        found |= dict(_a_stranger_tries(scratch / "closed"))
    return Row.of("planted in working directory and cache", found, least=40 if os.geteuid() == 0 else 30)


def victim(what: str, folder: str) -> None:
    """In a process of its own: try everything of one kind, and print name and failure of each as JSON."""
    attempts = {"working_directory": _working_directory, "cache": _cache}[what](Path(folder))
    for name, attempt in attempts:
        try:
            wrong = attempt()
        except Exception as error:
            wrong = f"{type(error).__name__}: {error!a}"
        print(json.dumps([name, wrong[:300]]), flush=True)


def _from_victim(scratch: Path, what: str) -> Iterator[tuple[str, str]]:
    folder = scratch / what
    planted = folder / "planted"
    planted.mkdir(parents=True)
    marker = folder / "ran"
    for name in MODULES:
        text = f"open({str(marker)!r}, 'a').write('{name} ')\n"
        if name in ("server", "client"):
            (planted / name).mkdir()
            (planted / name / "__init__.py").write_text(text)
        else:
            (planted / f"{name}.py").write_text(text)
    for name in PROGRAMS:
        (planted / name).write_text(f"#!/bin/sh\necho '{name}' >> '{marker}'\nexit 1\n")
        (planted / name).chmod(0o755)
    (planted / "matplotlibrc").write_text("text.usetex: True\n")
    script = folder / "victim" / "victim.py"
    script.parent.mkdir()
    script.write_text(_VICTIM.format(paths=[str(TESTS), str(TESTS.parent)]))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, str(script), what, str(folder)], cwd=planted, env=environment, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith("["):
            yield tuple(json.loads(line))
    if done.returncode:
        yield what, f"the victim ended with {done.returncode}: {done.stderr[-200:]}"


Attempt = tuple[str, Callable[[], str]]


def _working_directory(folder: Path) -> Iterator[Attempt]:
    """The victim's working directory is full of planted files."""
    marker = folder / "ran"

    def ran(doing: Callable[[], object]) -> Callable[[], str]:
        def attempt() -> str:
            marker.unlink(missing_ok=True)
            wrong = ""
            try:
                doing()
            except Exception as error:
                wrong = f"{type(error).__name__}: {error!a}"
            return f"{marker.read_text().strip()} ran" if marker.exists() else wrong

        return attempt

    plait = Path(sys.executable).with_name("plait")
    for verb in os.environ[_VERBS].split():
        yield f"plait {verb}", ran(lambda verb=verb: subprocess.run([plait, verb], capture_output=True, check=False))
    yield "a package is fetched", ran(lambda: _fetch(folder))
    yield "Python is started", ran(_start_python)
    yield "a process is spawned", ran(_spawn)
    yield "the apps are loaded", ran(lambda: _load_apps(Path.cwd()))
    yield "a trainer is loaded", ran(lambda: _load_trainer(Path.cwd()))
    yield "a plot is drawn", ran(_draw)
    yield "kernels are compiled", ran(lambda: _compile(folder))


def _fetch(folder: Path) -> None:
    links = folder / "links"
    links.mkdir()
    about = "toy-1.0.dist-info"
    wheel = _wheel(
        links / "toy-1.0-py3-none-any.whl",
        {
            "toy/data.txt": "honest",
            f"{about}/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": "",
        },
    )
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    assert _fetched(wheel.read_bytes(), folder / "cache") == "honest"


def _fetched(wheel: bytes, cache: Path, **more: object) -> str:
    """The package's one file, fetched into a cache."""
    from plait.data.packages import fetch_package_files

    sha256 = hashlib.sha256(wheel).hexdigest()
    found = fetch_package_files("toy==1.0", sha256=sha256, members="toy/", cache=cache, progress=lambda _: None, **more)
    return (found / "toy" / "data.txt").read_text()


def _wheel(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return path


def _version() -> None:
    """The command itself, which sets the environment of whatever it starts."""
    from plait.cli.main import main

    arguments, sys.argv = sys.argv, ["plait", "--version"]
    try:
        main()
    except SystemExit:
        pass
    finally:
        sys.argv = arguments


def _start_python() -> None:
    _version()
    subprocess.run([sys.executable, "-c", "import wave"], check=False, capture_output=True)
    subprocess.run([sys.executable, "-m", "pip", "--version"], check=False, capture_output=True)


def _spawn() -> None:
    _version()
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()


def _load_apps(planted: Path) -> None:
    from plait.apps import bind_apps

    before = list(sys.path)
    sys.path.insert(0, str(planted))
    try:
        for name in ("server", "client"):
            sys.modules.pop(name, None)
        bind_apps()
        for name in ("server", "client"):
            importlib.import_module(name)
    finally:
        sys.path[:] = before


def _load_trainer(planted: Path) -> None:
    from plait.plugins import admit
    from plait.training.bridge import load_own_trainer

    (planted / "trainer_of_mine.py").write_text("def build(model, tokenizer, data, args): ...\n")
    before = list(sys.path)
    try:
        admit("trainer_of_mine:build")
        load_own_trainer("trainer_of_mine:build")
        for name in ("wave", "netrc"):
            sys.modules.pop(name, None)
            importlib.import_module(name)
    finally:
        sys.path[:] = before


def _draw() -> None:
    from plait.report.theme import LIGHT, draw, new_axes

    draw(lambda: new_axes(LIGHT, height_inches=1, title="title")[0])


def _compile(folder: Path) -> None:
    from plait.system.compiler import built_library

    path = os.environ["PATH"]
    # An empty entry is the current directory, as is a dot.
    os.environ |= {"PATH": os.pathsep.join(("", path)), "PLAIT_CACHE": str(folder / "cache")}
    try:
        built_library(_SOURCE)
    finally:
        os.environ["PATH"] = path


def _cache(folder: Path) -> Iterator[Attempt]:
    """Each kind of entry, written by the victim and exchanged in each way that others have."""
    marker = folder / "ran"
    library = folder / "planted.so"
    source = folder / "planted.cpp"
    source.write_text(_PLANTED_SOURCE.format(marker=marker))
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler:
        subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True, capture_output=True)
    kinds: dict[str, tuple[str, Callable[[], object], Callable[[Path], None]]] = {
        "fingerprint": ("fingerprints.json", _fingerprint, _another_fingerprint),
        "loss": ("losses/*", _loss, _another_loss),
        "package": ("packages/toy-1.0", _package, lambda entry: _put(entry / "toy" / "data.txt", b"planted")),
        "base": ("bases/tiny-*", _base, lambda entry: _put(entry / "config.json", b"{}")),
    }
    if compiler:
        kinds["library"] = ("kernels/*.so", _library, lambda entry: _put(entry, library.read_bytes()))
    ways: dict[str, Callable[[Path, Path], None]] = {
        "writable by others": lambda _cache, entry: _open(entry),
        "a link": _link,
        "in a folder that others can write": lambda _cache, entry: entry.parent.chmod(0o777),
        "in a cache that others can write": lambda cache, _entry: cache.chmod(0o777),
        "below a folder that others can write": lambda cache, _entry: cache.parent.chmod(0o777),
    }
    if os.geteuid() == 0:
        ways |= {
            "a stranger's": lambda _cache, entry: _give_away(entry),
            "in a stranger's folder": lambda _cache, entry: os.chown(entry.parent, STRANGER, -1),
            "below a stranger's folder": lambda cache, _entry: os.chown(cache.parent, STRANGER, -1),
        }
    for kind, (place, use, plant) in kinds.items():
        for way, expose in ways.items():

            def attempt(place=place, use=use, plant=plant, expose=expose) -> str:
                cache = Path(tempfile.mkdtemp(dir=folder)) / "cache"
                os.environ["PLAIT_CACHE"] = str(cache)
                honest = use()
                (entry,) = cache.glob(place)
                plant(entry)
                expose(cache, entry)
                marker.unlink(missing_ok=True)
                found = use()
                if marker.exists():
                    return f"{marker.read_text().strip()} ran"
                return "" if found == honest else f"{found!a} is believed, expected {honest!a}"

            yield f"{kind}, {way}", attempt


def _put(path: Path, data: bytes) -> None:
    # Beside and renamed, as somebody would who is not to be noticed: what is loaded already stays as it is.
    aside = path.with_name(f"{path.name}.aside")
    aside.write_bytes(data)
    aside.replace(path)


def _open(entry: Path) -> None:
    entry.chmod(0o777 if entry.is_dir() else 0o666)


def _link(cache: Path, entry: Path) -> None:
    elsewhere = cache.parent / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)


def _give_away(entry: Path) -> None:
    for path in (entry, *(entry.rglob("*") if entry.is_dir() else ())):
        os.chown(path, STRANGER, STRANGER)


def _fingerprint() -> str:
    from plait.training.bases import locate_base

    return locate_base(str(_own_base())).reference.fingerprint


def _own_base() -> Path:
    """A base outside of the cache, whose fingerprint is remembered there."""
    from plait.training.bases import unpack_tiny

    place = Path(os.environ["PLAIT_CACHE"]).parents[1] / "base"
    if not place.exists():
        chosen, os.environ["PLAIT_CACHE"] = os.environ["PLAIT_CACHE"], str(place.with_name("base-cache"))
        shutil.copytree(unpack_tiny(), place)
        os.environ["PLAIT_CACHE"] = chosen
    return place


def _another_fingerprint(entry: Path) -> None:
    said = json.loads(entry.read_text())
    _put(entry, json.dumps({place: {**each, "fingerprint": "0" * 64} for place, each in said.items()}).encode())


def _loss() -> object:
    from plait.data import cache_directory
    from plait.rounds.evaluation import SequenceLosses
    from plait.simulation.loaded import RememberedLosses

    return RememberedLosses(cache_directory()).recall([b"inputs"], lambda: SequenceLosses((1.0,), (1,), None))


def _another_loss(entry: Path) -> None:
    from plait.rounds.evaluation import SequenceLosses

    _put(entry, SequenceLosses((9.0,), (1,), None).to_bytes())


def _package() -> object:
    from plait.data import cache_directory

    with tempfile.TemporaryDirectory() as scratch:
        wheel = _wheel(Path(scratch) / "toy-1.0-py3-none-any.whl", {"toy/data.txt": "honest"}).read_bytes()

    def pip(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
        (directory / "toy-1.0-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    return _fetched(wheel, cache_directory(), run=pip)


_HONEST_BASE: list[object] = []


def _base() -> object:
    from plait.errors import MachineError
    from plait.training.bases import unpack_tiny

    try:
        folder = unpack_tiny()
    except MachineError:
        return _HONEST_BASE[0]  # refused, with words: nothing was believed
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    _HONEST_BASE[:1] = _HONEST_BASE[:1] or [found]
    return found


def _library() -> object:
    from plait.system.compiler import built_library

    loaded = built_library(_SOURCE)
    return ctypes.c_int(loaded.honest()).value if loaded is not None else 1


def _a_stranger_tries(folder: Path) -> Iterator[tuple[str, str]]:
    """Another user of the machine, at what plait makes under a umask that closes nothing."""
    from client.settings import locked, memory_folder
    from plait.rounds.memory import DiskMemory
    from plait.simulation.simulation import SimulatedMemory, VolatileMemory

    folder.mkdir(mode=0o755)
    before, chosen = os.umask(0), os.environ.get("PLAIT_CACHE")
    try:
        cache = folder / "cache" / "plait"
        os.environ["PLAIT_CACHE"] = str(cache)
        _loss()
        memory = memory_folder(folder / "state", 1, "ada")
        with locked(folder / "state", "ada"):
            DiskMemory(memory).save("own", b"an adapter")
        simulated = folder / "clients" / "bob"
        SimulatedMemory(VolatileMemory(bytes), simulated).save("own", b"an adapter")
        folders = [cache, *cache.glob("losses"), folder / "state", memory, simulated]
        files = [*cache.glob("losses/*"), memory / "own", simulated / "own"]
    finally:
        os.umask(before)
        os.environ |= {"PLAIT_CACHE": chosen} if chosen else {}
        if not chosen:
            del os.environ["PLAIT_CACHE"]
    for place in folders:
        command = ["/bin/sh", "-c", 'echo planted > "$0/planted"', str(place)]
        done = subprocess.run(command, user=STRANGER, group=STRANGER, extra_groups=(), capture_output=True, check=False)
        name = place.relative_to(folder)
        yield f"a stranger writes into {name}", "written" if not done.returncode or (place / "planted").exists() else ""
    for file in files:
        done = subprocess.run(
            ["/bin/cat", str(file)], user=STRANGER, group=STRANGER, extra_groups=(), capture_output=True, check=False
        )
        name = file.parent.relative_to(folder)
        yield f"a stranger reads what is in {name}", "" if done.returncode else "read"
