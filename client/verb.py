"""``plait client``: take part in a federation with this machine's own data, for as long as it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plait.errors import ConfigError


def client(
    server: Annotated[str, typer.Option("--server", help="Address of the server, HOST:PORT.")],
    data: Annotated[str, typer.Option("--data", help="Your data, as in plait simulate. It never leaves this machine.")],
    columns: Annotated[
        str, typer.Option("--columns", help="Columns that have other names, such as text=body; see plait simulate.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="Split to train on, or TRAIN,HELD_OUT; see plait simulate.")
    ] = "",
    kit: Annotated[Path | None, typer.Option("--kit", help="This node's start-up kit, from `plait provision`.")] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of this node if it has no kit; by default the name of the data.")
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Connect without TLS and keys; loopback addresses only.")
    ] = False,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="The run's base, if it has another name or path on this machine; NAME=DIR,NAME=DIR for several.",
        ),
    ] = "",
    trainer: Annotated[
        str, typer.Option("--trainer", help="Allow this local trainer, MODULE:FUNCTION, if the run uses one.")
    ] = "",
    trainer_exec: Annotated[
        str,
        typer.Option(
            "--trainer-exec",
            help="Train with this program, in any language, instead of PyTorch: JSON lines and safetensors files, as "
            "client/README.md says. --data is then the file that it reads.",
            metavar="COMMAND",
        ),
    ] = "",
    allow_plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-plugin",
            help="Allow parts of this module, such as a loss, if the run names one. May be repeated. Installed "
            "distributions need no permission.",
            metavar="MODULE",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="auto, cpu, cuda, cuda:N or mps; several, such as cuda:0,cuda:1, share every step."
        ),
    ] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16; int8 on a CPU.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 means torch's default.")] = 0,
    state: Annotated[
        Path | None, typer.Option("--state", help="Directory of the node's state; by default in your home directory.")
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", help="Labels of this machine, such as gpu,region=eu; runs may ask for them.")
    ] = "",
    max_memory_gb: Annotated[
        float,
        typer.Option(
            "--max-memory-gb",
            help="Memory limit of each device: announced to the server, planned for and, on CUDA, enforced; 0 for all.",
        ),
    ] = 0.0,
    max_rank: Annotated[
        int,
        typer.Option("--max-rank", help="Largest rank to accept if the rule mixes ranks; 0 for any.", min=0),
    ] = 0,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="TOML file that limits what a server may ask; safe limits by default."),
    ] = None,
    dp_max_epsilon: Annotated[
        float,
        typer.Option(
            "--dp-max-epsilon",
            help="Refuse runs without client-level differential privacy or with a larger epsilon; 0 accepts any.",
        ),
    ] = 0.0,
    require_secure_aggregation: Annotated[
        bool,
        typer.Option(
            "--require-secure-aggregation",
            help="Refuse runs without secure aggregation, where the server would see this client's update.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Consent to any run that the policy allows, without asking.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print events as JSON, one object per line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors.")] = False,
) -> None:
    """Take part in a federation with your own data, which stays on this machine.

    It reconnects until the run is over, or waits for the next one if the server stays between runs. Ctrl-C stops it
    after the current training step.

    Example: plait client --kit kit/clients/alice --server plait.example.org:9440 --data alice.jsonl
    """
    if json_output and quiet:
        raise ConfigError("json and quiet are both given, expected one of them")
    from client.journal import Journal, Style
    from client.settings import check_settings

    settings = check_settings(
        server=server,
        data=data,
        columns=columns,
        split=split,
        kit=kit,
        name=name,
        insecure=insecure,
        base=base,
        trainer=trainer,
        trainer_exec=trainer_exec,
        allow_plugins=allow_plugin or (),
        device=device,
        dtype=dtype,
        threads=threads,
        state=state,
        labels=labels,
        max_memory_gb=max_memory_gb,
        max_rank=max_rank,
        policy=policy,
        dp_max_epsilon=dp_max_epsilon,
        require_secure_aggregation=require_secure_aggregation,
        yes=yes,
    )
    from client.process import run_node

    chosen = Style.JSON if json_output else Style.QUIET if quiet else Style.LINES
    run_node(settings, Journal(chosen, sys.stdout if json_output else sys.stderr))
