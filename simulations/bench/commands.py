"""``plait bench``: plait's performance in numbers, compared with alternatives."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.trust.kit import ServerKit
    from simulations.bench.gpu_cells import Outcome
    from simulations.bench.row import Row
    from simulations.bench.transport import Serving

_IDLE_CLIENTS = 100

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


@bench.command()
def wire(
    base: Annotated[
        str, typer.Option("--base", help="Base whose deltas are measured: a name or a directory.")
    ] = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="Smaller samples, fewer repetitions.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of samples and training.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Measure the codecs of the wire on random samples and on real deltas: bytes, error, distance to the bound, speed.

    Example: plait bench wire --base smollm2-135m
    """
    from itertools import chain

    from plait.progress import status
    from simulations.bench.deltas import samples, trained
    from simulations.bench.wire import compare

    sources = chain(samples(1 << (16 if quick else 20), seed=seed), trained(base, seed=seed))
    for source in sources:
        with status(f"packing {source.name}", quiet=json_output):
            comparison = compare(source, repetitions=2 if quick else 5)
        if json_output:
            for row in comparison.rows():
                typer.echo(json.dumps(row.to_json()))
            continue
        from rich.console import Console

        from plait.report.table import to_rich

        Console().print(to_rich(comparison.table()))


@bench.command()
def aggregate(
    base: Annotated[
        str, typer.Option("--base", help="Base that determines the size of the updates; only its config is read.")
    ] = "smollm2-135m",
    rank: Annotated[int, typer.Option("--rank", min=1, max=4096, help="Rank of the adapter.")] = 8,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Updates per round when speed is measured.")] = 32,
    only: Annotated[
        str, typer.Option("--only", help="Rules to measure, or 'server', separated by commas; all by default.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the updates' values.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Measure aggregation: FedAvg against copying memory, every rule's speed, the server's path.

    Example: plait bench aggregate --only fedavg,server
    """
    from plait.config import config_from_table
    from plait.progress import status
    from plait.run import blueprint_of
    from plait.settle import settle
    from plait.training.base_lookup import locate_config
    from plait.training.bases import quiet_libraries
    from simulations.bench.aggregate import rows

    quiet_libraries()
    config = config_from_table({"base": base, "rank": rank}, where="command line")
    spec = blueprint_of(settle(config), locate_config(base)).spec
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    measured = rows(
        spec,
        names=names,
        clients=clients,
        repetitions=1 if quick else 3,
        seed=seed,
    )
    with status("aggregating", quiet=json_output):
        for row in measured:
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
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="Time for all; what is left is skipped.")] = 30.0,
    out: Annotated[Path, typer.Option("--out", help="File that outcomes are added to, as lines of JSON.")] = Path(
        "gpu.jsonl"
    ),
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Measure a GPU: its numbers against the CPU's, training against PEFT, memory against its prediction.

    Example: plait bench gpu llama-3.2-1b llama-3.1-8b
    """
    from plait.errors import MachineError
    from plait.progress import status
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
            seconds=60 * minutes,
            progress=say,
        ):
            file.write(outcome.to_json() + "\n")
            file.flush()
            found.append(outcome)
            if json_output:
                typer.echo(outcome.to_json())
    if json_output:
        return
    from rich.console import Console

    from plait.report.table import to_rich

    for table in (measured(found), judged(verdicts(found))):
        Console().print(to_rich(table))


@bench.command()
def transport(
    megabytes: Annotated[
        float, typer.Option("--megabytes", min=0.001, help="Megabytes sent to each node and back.")
    ] = 50.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each kind; more of small ones.")] = 10,
    light_clients: Annotated[int, typer.Option("--light-clients", min=0, help="Light clients; 0 for none.")] = 1000,
    insecure: Annotated[bool, typer.Option("--insecure", help="Use no TLS and no keys for resident nodes.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Measure rounds over gRPC on this machine (empty, large, many clients) against raw gRPC.

    Example: plait bench transport --rounds 20
    """
    from plait.progress import status
    from simulations.bench.transport import compare_light, compare_resident, table_of

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with status("two resident nodes", quiet=json_output):
        compared = [
            *compare_resident(
                _serve,
                _echo,
                body_bytes=int(megabytes * 1e6),
                rounds=rounds,
                tls=not insecure,
                environment=environment,
            )
        ]
    if light_clients:
        with status(f"{light_clients:,} light clients", quiet=json_output):
            compared.append(compare_light(_serve, nodes=light_clients, rounds=rounds, environment=environment))
    if json_output:
        for row in (row for each in compared for row in each.rows()):
            typer.echo(json.dumps(row.to_json()))
        return
    from rich.console import Console

    from plait.report.table import to_rich

    Console().print(to_rich(table_of(compared)))


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
    base: Annotated[
        str, typer.Option("--base", help="Base that is trained on: a name or a directory.")
    ] = "smollm2-135m",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences per step.")] = 4,
    seq_len: Annotated[int, typer.Option("--seq-len", min=2, help="Tokens per sequence.")] = 128,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the adapter.")] = 8,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16, for plait and the limit.")
    ] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 for torch's default.")] = 0,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Repetitions of each measurement.")] = 5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps per measurement.")] = 2,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Also measure peak memory.")] = True,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Count the main thread's processor time, not wall time, on a machine shared with others "
            "(set OMP_WAIT_POLICY=PASSIVE, so that waiting costs none).",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the adapter and the tokens.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Measure local training against PEFT, transformers' Trainer and the machine's limit: tokens per second, memory.

    Example: plait bench train --repetitions 9
    """
    from plait.progress import status
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.device import choose_compute
    from simulations.bench.train import MAIN_THREAD, WALL, speeds
    from simulations.bench.train import memory as memories
    from simulations.bench.train_ways import Workload

    quiet_libraries()
    located = locate_base(base)
    compute = choose_compute(device, dtype)
    work = Workload(
        located.directory,
        located.reference.fingerprint,
        device=str(compute.device),
        dtype=compute.dtype_name,
        threads=threads,
        batch_size=batch_size,
        seq_len=seq_len,
        rank=rank,
        seed=seed,
    )
    clock = MAIN_THREAD if shared else WALL
    with status("training in every way", quiet=json_output) as say:
        found = speeds(work, repetitions=repetitions, steps=steps, clock=clock, progress=say)
    rows = list(found.rows())
    if memory:
        with status("measuring memory", quiet=json_output) as say:
            rows += memories(work, progress=say)
    if json_output:
        for row in rows:
            typer.echo(json.dumps(row.to_json()))
        return
    from rich.console import Console

    from plait.report.table import to_rich

    Console().print(to_rich(found.table()))
    for row in rows[3:]:
        typer.echo(str(row))


@bench.command()
def simulate(
    base: Annotated[
        str, typer.Option("--base", help="Base that is trained on: a name or a directory.")
    ] = "smollm2-135m",
    clients: Annotated[int, typer.Option("--clients", min=2, help="Clients; all take part in every round.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Rounds; the first does not count.")] = 3,
    local_steps: Annotated[int, typer.Option("--local-steps", min=1, help="Steps per client and round.")] = 4,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences per step.")] = 4,
    seq_len: Annotated[int, typer.Option("--seq-len", min=8, help="Tokens per sequence.")] = 128,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Type of the base: auto, float32, bfloat16 or float16.")
    ] = "auto",
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Runs of each simulation, in turn.")] = 1,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds until a simulation is stopped and the command fails.")
    ] = 3600.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the adapter and the order of data.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Measure a simulation's rounds against Flower's Ray simulation: speed, processor time, memory, loss.

    Needs the extra flower-simulation, and Linux.

    Example: plait bench simulate --clients 8 --rounds 3
    """
    import tempfile
    from importlib.util import find_spec

    from plait.errors import MachineError
    from plait.progress import status
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
        choose_compute(device, dtype),
        clients=clients,
        rounds=rounds,
        local_steps=local_steps,
        batch_size=batch_size,
        seq_len=seq_len,
        seed=seed,
        timeout_s=timeout,
    )
    with tempfile.TemporaryDirectory() as folder, status("simulating", quiet=json_output) as say:
        for row in compared(work, Path(folder), repetitions=repetitions, progress=say):
            show(row)
