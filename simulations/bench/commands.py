"""``plait bench``: plait's performance in numbers, compared with alternatives."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.report.table import Table
    from plait.trust.kit import ServerKit
    from simulations.bench.gpu_cells import Outcome
    from simulations.bench.row import Row
    from simulations.bench.transport import Serving

_IDLE_CLIENTS = 100
_LONGEST_S = 3600.0
"""Until a simulation is stopped and the command fails."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Trained = Annotated[str, typer.Option("--base", help="Base that is trained on: a name or a directory.")]
Repetitions = Annotated[int, typer.Option("--repetitions", min=1, help="Repetitions of each measurement, in turn.")]

bench = typer.Typer(
    name="bench",
    help="Benchmark plait on this machine against alternatives.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    suggest_commands=False,  # click does already
)


@bench.callback()
def _root() -> None: ...


def _show(rows: Iterable[Row], *tables: Table, as_json: bool) -> None:
    """Print rows as JSON, or what they are for people."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.to_json()))
        return
    from rich.console import Console

    from plait.report.terminal import to_rich

    for table in tables:
        Console().print(to_rich(table))


@bench.command()
def wire(
    base: Annotated[
        str, typer.Option("--base", help="Base whose deltas are measured: a name or a directory.")
    ] = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="Smaller samples, fewer repetitions.")] = False,
    json_output: Json = False,
) -> None:
    """Measure the codecs of the wire on random samples and on real deltas: bytes, error, distance to the bound, speed.

    Example: plait bench wire --base smollm2-135m
    """
    from itertools import chain

    from plait.report.terminal import status
    from simulations.bench.deltas import samples, trained
    from simulations.bench.wire import compare

    for source in chain(samples(1 << (16 if quick else 20), seed=0), trained(base, seed=0)):
        with status(f"packing {source.name}", quiet=json_output):
            comparison = compare(source, repetitions=2 if quick else 5)
        _show(comparison.rows(), comparison.table(), as_json=json_output)


@bench.command()
def aggregate(
    only: Annotated[
        str, typer.Option("--only", help="Rules to measure, or 'server', separated by commas; all by default.")
    ] = "",
    json_output: Json = False,
) -> None:
    """Measure aggregation: FedAvg against copying memory, every rule's speed, the server's path.

    Example: plait bench aggregate --only fedavg,server
    """
    from plait.config import config_from_table
    from plait.report.terminal import status
    from plait.run import blueprint_of
    from plait.settle import settle
    from plait.training.bases import locate_config, quiet_libraries
    from simulations.bench.aggregate import rows

    quiet_libraries()
    base = "smollm2-135m"
    spec = blueprint_of(settle(config_from_table({"base": base, "rank": 8})), locate_config(base)).spec
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    with status("aggregating", quiet=json_output):
        for row in rows(spec, names=names, clients=32, repetitions=3):
            typer.echo(json.dumps(row.to_json()) if json_output else str(row))


@bench.command()
def gpu(
    bases: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bases by the names of known configs; weights are random. By default 1B and 8B.", metavar="BASE"
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="auto, cuda, cuda:N or cpu, which runs small cells.")
    ] = "auto",
    out: Annotated[Path, typer.Option("--out", help="File that outcomes are added to, as lines of JSON.")] = Path(
        "gpu.jsonl"
    ),
    json_output: Json = False,
) -> None:
    """Measure a GPU: its numbers against the CPU's, training against PEFT, memory against its prediction.

    Example: plait bench gpu llama-3.2-1b llama-3.1-8b
    """
    from plait.errors import MachineError
    from plait.report.terminal import status
    from plait.training.device import choose_compute
    from simulations.bench.gpu import Process, measure_all
    from simulations.bench.gpu_cells import judged, measured, processes, verdicts
    from simulations.bench.same import checks

    on_gpu = choose_compute(device).device.type == "cuda"
    if not on_gpu and device != "cpu":
        raise MachineError("this machine has no GPU that torch can use; plait bench gpu --device cpu runs small cells")
    chosen = bases or (["llama-3.2-1b", "llama-3.1-8b"] if on_gpu else ["tiny"])
    found: list[Outcome] = []
    with status("measuring", quiet=json_output) as say, out.open("a", encoding="utf-8") as file:
        for outcome in measure_all(
            processes(chosen, [check.name for check in checks()], on_gpu=on_gpu),
            lambda: Process(device if device != "auto" else "cuda", out.with_suffix(".log")),
            seconds=1800,
            progress=say,
        ):
            file.write(outcome.to_json() + "\n")
            file.flush()
            found.append(outcome)
            if json_output:
                typer.echo(outcome.to_json())
    if not json_output:
        _show((), measured(found), judged(verdicts(found)), as_json=False)


@bench.command()
def transport(
    megabytes: Annotated[
        float, typer.Option("--megabytes", min=0.001, help="Megabytes sent to each node and back.")
    ] = 50.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each kind; more of small ones.")] = 10,
    light_clients: Annotated[int, typer.Option("--light-clients", min=0, help="Light clients; 0 for none.")] = 1000,
    json_output: Json = False,
) -> None:
    """Measure rounds over gRPC on this machine (empty, large, many clients) against raw gRPC.

    Example: plait bench transport --rounds 20
    """
    from plait.report.terminal import status
    from simulations.bench.transport import compare_light, compare_resident, table_of

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with status("two resident nodes", quiet=json_output):
        compared = [
            *compare_resident(
                _serve,
                _echo,
                body_bytes=int(megabytes * 1e6),
                rounds=rounds,
                environment=environment,
            )
        ]
    if light_clients:
        with status(f"{light_clients:,} light clients", quiet=json_output):
            compared.append(compare_light(_serve, nodes=light_clients, rounds=rounds, environment=environment))
    _show((row for each in compared for row in each.rows()), table_of(compared), as_json=json_output)


@contextmanager
def _serve(inbox: Path, kit: ServerKit | None, max_answer_bytes: int) -> Generator[Serving]:
    """The server of plait, as `plait server` runs it."""
    from server.hosting import Terms
    from server.nodes_channel import NodesChannel
    from server.uploads import Limits
    from simulations.bench.transport import Serving

    channel = NodesChannel("127.0.0.1:0", kit=kit, limits=Limits(max_answer_bytes=max_answer_bytes))
    with channel.begin(Terms(1, {}, b""), inbox=inbox):
        yield Serving(channel.address, channel)


def _echo(server: str, name: str, state: Path, kit: Path | None) -> Sequence[str]:
    """The node of plait, with an app that does nothing."""
    return (sys.executable, "-m", "simulations.bench.echo_node", server, name, str(state), *([str(kit)] if kit else []))


@bench.command()
def train(
    base: Trained = "smollm2-135m",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 for torch's default.")] = 0,
    repetitions: Repetitions = 5,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Count the main thread's processor time, not wall time, on a machine shared with others "
            "(set OMP_WAIT_POLICY=PASSIVE, so that waiting costs none).",
        ),
    ] = False,
    json_output: Json = False,
) -> None:
    """Measure local training against PEFT, transformers' Trainer and the machine's limit: tokens per second, memory.

    Example: plait bench train --repetitions 9
    """
    from plait.report.terminal import status
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.device import choose_compute
    from simulations.bench.train import MAIN_THREAD, WALL, memory, speeds
    from simulations.bench.train_ways import Workload

    quiet_libraries()
    located = locate_base(base)
    compute = choose_compute(device)
    work = Workload(
        located.directory,
        located.reference.fingerprint,
        device=str(compute.device),
        dtype=compute.dtype_name,
        threads=threads,
    )
    clock = MAIN_THREAD if shared else WALL
    with status("training in every way", quiet=json_output) as say:
        found = speeds(work, repetitions=repetitions, steps=2, clock=clock, progress=say)
    with status("measuring memory", quiet=json_output) as say:
        peaks = list(memory(work, progress=say))
    _show([*found.rows(), *peaks], found.table(), as_json=json_output)
    if not json_output:
        for row in peaks:
            typer.echo(str(row))


@bench.command()
def simulate(
    base: Trained = "smollm2-135m",
    clients: Annotated[int, typer.Option("--clients", min=2, help="Clients; all take part in every round.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Rounds; the first does not count.")] = 3,
    repetitions: Repetitions = 1,
    json_output: Json = False,
) -> None:
    """Measure a simulation's rounds against Flower's Ray simulation: speed, processor time, memory, loss.

    Needs the extra flower-simulation, and Linux.

    Example: plait bench simulate --clients 8 --rounds 3
    """
    import tempfile
    from importlib.util import find_spec

    from plait.errors import MachineError
    from plait.report.terminal import status
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.device import choose_compute
    from simulations.bench.echo import echo_channel
    from simulations.bench.simulate import Workload, round_row
    from simulations.bench.simulate import rows as compared

    def show(row: Row) -> None:
        typer.echo(json.dumps(row.to_json()) if json_output else str(row))

    show(round_row(echo_channel(_IDLE_CLIENTS), _IDLE_CLIENTS, rounds=30))
    if find_spec("ray") is None:
        raise MachineError("Ray is not installed; pip install 'plait[flower-simulation]'")
    quiet_libraries()
    work = Workload(
        locate_base(base),
        choose_compute("auto"),
        clients=clients,
        rounds=rounds,
        timeout_s=_LONGEST_S,
    )
    with tempfile.TemporaryDirectory() as folder, status("simulating", quiet=json_output) as say:
        for row in compared(work, Path(folder), repetitions=repetitions, progress=say):
            show(row)
