"""Feeds a parser bytes until it breaks: by atheris (coverage-guided) if installed, otherwise by mutation.

A target parses bytes and may raise PeerError. Any other exception is a bug, and so is an input that takes longer than
LIMIT_S; the bytes are kept.

    python tests/fuzz/fuzz_envelope.py -atheris_runs=10000
"""

import contextlib
import hashlib
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from plait.errors import PeerError

LIMIT_S = 120
"""Seconds of real time for one input, which no machine is too busy for."""
# A library with sanitizers (sanitized.sh) takes over what atheris would learn of coverage.
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None and "ASAN_OPTIONS" not in os.environ
VECTORS = Path(__file__).parents[1] / "vectors"
SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
"""For a target's files, in memory where there is such a place."""


def instrumented():
    """A block whose imports atheris watches."""
    if not HAS_ATHERIS:
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["plait", "server", "client"])


def golden(prefix: str) -> list[bytes]:
    """The golden messages whose files' names begin so."""
    paths = sorted(path for path in VECTORS.glob("*.hex") if path.name.startswith(prefix))
    return [bytes.fromhex(path.read_text()) for path in paths]


@contextlib.contextmanager
def one_line(kind, *, printable=False):
    """A block that may refuse with an error of this kind, which has one line."""
    try:
        yield
    except kind as error:
        if "\n" in str(error) or (printable and not str(error).isprintable()):
            raise ValueError(f"not one line: {error!a}") from error


def main(parse, seeds) -> None:
    """Run a target as often as the command line says."""

    def once(data: bytes) -> None:
        with _limited(data), contextlib.suppress(PeerError):
            parse(data)

    for seed in seeds:
        once(seed)
    if not HAS_ATHERIS:
        _mutate(once, seeds)
        return
    import atheris

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, "-max_len=4096", "-print_final_stats=1", corpus], once)
        atheris.Fuzz()


class HangError(BaseException):
    """An input took too long. No `except Exception` of a parser takes it for an error of its own."""


@contextlib.contextmanager
def _limited(data: bytes):
    """Ends the block, and keeps its input, once it has taken LIMIT_S."""

    def stop(*_):
        kept = Path(f"hang-{hashlib.sha256(data).hexdigest()[:16]}")
        kept.write_bytes(data)
        raise HangError(f"no end after {LIMIT_S} s; the input is in {kept}: {data[:200].hex()}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _mutate(once, seeds) -> None:
    options = dict(argument.lstrip("-").split("=") for argument in sys.argv[1:] if "=" in argument)
    runs, chance = int(options.get("atheris_runs", 10_000)), random.Random(int(options.get("seed", 0)))
    pool, started = list(seeds), time.perf_counter()
    for _ in range(runs):
        data = mutant(chance.choice(pool), chance.choice(pool), chance)
        try:
            once(data)
        except BaseException:
            print(f"crash on {data.hex()}", file=sys.stderr)
            raise
        if len(pool) < 10 * len(seeds) and len(data) < 4096:
            pool.append(data)  # mutants of mutants
        elif chance.randrange(10) == 0:
            pool[chance.randrange(len(seeds), len(pool))] = data[:4096]
    print(f"{runs} mutants in {time.perf_counter() - started:.2f} s")


def mutant(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Flip, overwrite, drop, repeat or insert a few bytes, or splice two inputs."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice((1, 1, 2, 8, 40)))
        match chance.randrange(6):
            case 0:
                changed[at:end] = bytes(byte ^ (1 << chance.randrange(8)) for byte in changed[at:end])
            case 1:
                changed[at:end] = chance.randbytes(end - at)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end]
            case 4:
                changed[at:at] = chance.choice((b"\0", b"\xff", b"\x80", b"\x7f", b"\xff\xff\xff\xff\x0f", b"[{", b'"'))
            case _:
                changed[at:] = other[at:]
    return bytes(changed)
