"""``plait region``: the server of a region's clients, and a client of the server above it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plait.apps import bind_apps
from plait.errors import ConfigError


def region(
    server: Annotated[
        str,
        typer.Option("--server", help="Address of the server above, HOST:PORT."),
    ],
    listen: Annotated[str, typer.Option(help="Address and port to serve the region's clients on.")] = "127.0.0.1:9440",
    kit: Annotated[
        Path | None,
        typer.Option("--kit", help="The region's start-up kit as a client above, from `plait provision` there."),
    ] = None,
    serve_kit: Annotated[
        Path | None, typer.Option("--serve-kit", help="The region's kit as a server, from its own `plait provision`.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the region if it has no kit.")] = "region",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Connect and serve without TLS and keys; loopback addresses only.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Directory of the region: each run has a folder there.")] = Path("region"),
    base: Annotated[
        str, typer.Option("--base", help="The run's base, if it has another name or path on this machine.")
    ] = "",
    grace_s: Annotated[
        float, typer.Option(help="Seconds a client may be disconnected before its task is given up.")
    ] = 30.0,
    metrics: Annotated[str, typer.Option(help="Address of the Prometheus page, such as 127.0.0.1:9441.")] = "",
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="TOML file that limits what the server above may ask; safe limits by default."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Consent to any run that the policy allows, without asking.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print events as JSON, one object per line.")] = False,
) -> None:
    """Serve a region: its clients' updates stay here, and the server above gets their exact sum.

    The server above has `--tree REGIONSxCLIENTS`. Clients connect to the region with `plait client`. The region stays
    until the run is over; to continue a killed region, repeat the command.

    Example: plait region --kit fed/clients/north --server plait.example.org:9440 --serve-kit north/server
    --listen 0.0.0.0:9440
    """
    if (serve_kit is None) != insecure:
        raise ConfigError(
            "serve-kit and insecure are both given or both missing; give one of them: with --serve-kit clients "
            "prove who they are"
        )
    bind_apps()
    from client.journal import Journal, Style
    from client.process import stopped_by_signals
    from client.settings import check_settings
    from client.state_directory import locked
    from client.terminal import asker
    from plait.api.serving import Serving
    from plait.features.trees.regional_node import RegionalNode

    out = out.absolute()
    settings = check_settings(
        server=server,
        data="region",
        kit=kit,
        name="" if kit else name,
        insecure=insecure,
        base=base,
        state=out / "node",
        policy=policy,
        yes=yes,
    )
    serving = Serving.of(
        {"listen": listen, "kit": serve_kit, "insecure": insecure, "metrics": metrics, "grace_s": grace_s}
    )
    journal = Journal(Style.JSON if json_output else Style.LINES, sys.stdout if json_output else sys.stderr)
    ask = None if json_output else asker("Serve this run to the region?")
    with locked(settings.state, settings.name):
        regional = RegionalNode(settings, serving, out, journal, ask=ask)
        with stopped_by_signals(regional.node):
            regional.run()
