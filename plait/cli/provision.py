"""``plait provision``: make the start-up kits of a federation, add members, revoke them."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json, print_text
from plait.errors import ConfigError
from plait.settings.table import parts_of
from plait.system.text import composed
from plait.trust import provision as provisioning
from plait.trust.keys import Role
from plait.trust.provision import Federation, Provisioned
from plait.trust.register import RegisteredClient

_PORT = 9440


def provision(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the kits; made if missing.")],
    clients: Annotated[str, typer.Option(help="Names of the clients, separated by commas.")] = "",
    operators: Annotated[
        str, typer.Option(help="Names of people who may submit and cancel runs of a standing server.")
    ] = "",
    server_name: Annotated[
        str,
        typer.Option(help="DNS names and IP addresses that clients connect to, separated by commas."),
    ] = "",
    days: Annotated[
        int | None, typer.Option(min=1, help="Validity of new certificates.  [dim]\\[default: 730][/dim]")
    ] = None,
    revoke: Annotated[str, typer.Option(metavar="NAME", help="Revoke this member's key.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make start-up kits for a server, clients and operators; later add some, renew certificates or revoke keys.

    Existing files are never overwritten. To renew a certificate, remove it from its kit and run this again.

    Example: plait provision kits --clients alice,bob,carol --server-name fed.example.org
    """
    now = datetime.now(UTC).replace(microsecond=0)
    if revoke:
        if clients or operators or server_name or days is not None:
            raise ConfigError("--revoke is given with other options; give it alone")
        _show_revoked(directory, provisioning.revoke(directory, composed(revoke), now=now), json_output=json_output)
        return
    names, operating = ([composed(name) for name in parts_of(given)] for given in (clients, operators))
    if not (names or operating) and not (directory / "authority").exists():
        raise ConfigError("clients are missing, expected names such as --clients alice,bob,carol")
    made = provisioning.provision(directory, names, parts_of(server_name), operators=operating, now=now, days=days)
    if json_output:
        print_json(_as_json(directory, made))
    else:
        _show_made(directory, made)


def _show_made(directory: Path, made: Federation) -> None:
    if made.authority_made:
        print_text(f"made       {directory / 'authority'}  the authority; anyone with its ca.key can admit clients")
    for kit in (made.server, *made.clients, *made.staff):
        what = f"the server, for {', '.join(made.server_names)}" if kit is made.server else f"{kit.role} {kit.name}"
        print_text(f"{kit.outcome.value:<10} {kit.directory}  {what}, certificate until {kit.expires:%Y-%m-%d}")
    for number, step in enumerate(_next_steps(directory, made), start=1):
        print_text(f"\n{number}. {step}", indent=3)


def _next_steps(directory: Path, made: Federation) -> list[str]:
    """The operator's next steps, one per entry, without those for kits that existed before."""
    new = [kit for kit in made.clients if kit.outcome.value != "kept"]
    staff = [kit for kit in made.staff if kit.outcome.value != "kept"]
    steps: list[str] = []
    if made.server.outcome.value == "made":
        listen = f"0.0.0.0:{_PORT}"
        steps.append(
            f"Copy {made.server.directory} to the server's machine as plait-server, and run:\n"
            f"   plait server --kit plait-server --listen {listen} --min-clients {max(len(new), 1)} --out runs/first"
        )
    elif made.server.outcome.value == "renewed":
        steps.append(f"Copy {made.server.directory / 'server.crt'} into the server's kit and restart the server.")
    elif any(kit.outcome.value != "renewed" for kit in (*new, *staff)):
        steps.append(_copy_register(made.server.directory))
    clients = ("client's", "that client's", "client", " --data my.jsonl")
    people = ("operator's", "that person's", "status", "")
    host = made.server_names[0]
    address = shlex.quote(f"{f'[{host}]' if ':' in host else host}:{_PORT}")
    for kits, (whose, goes_to, verb, more) in ((new, clients), (staff, people)):
        if kits:
            steps.append(f"Copy each {whose} folder to {goes_to} machine and no other, and run:")
        for kit in kits:
            steps[-1] += f"\n   plait {verb} --kit {shlex.quote(kit.name)} --server {address}{more}"
    if made.authority_made or new or staff:
        steps.append(
            f"Keep {directory / 'authority'} offline, for example on an encrypted stick. Only adding members and "
            "renewing certificates needs it."
        )
    return steps


def _copy_register(server: Path) -> str:
    return (
        f"Copy {server / 'clients.json'} over the one in the server's kit, unless the server runs from this folder. A "
        "running server reloads it."
    )


def _show_revoked(directory: Path, client: RegisteredClient, *, json_output: bool) -> None:
    register, folder = directory / "server" / "clients.json", client.role.folder
    if json_output:
        print_json(
            {
                "name": client.name,
                "role": client.role.value,
                "public_key": client.public_key.hex(),
                "revoked": client.revoked and client.revoked.isoformat(),
                "register": str(register),
            }
        )
        return
    print_text(f"revoked {client.role} {client.name} on {client.revoked:%Y-%m-%d %H:%M} UTC")
    print_text(f"\n1. {_copy_register(directory / 'server')}")
    print_text(f"\n2. To readmit {client.name} with a new key, remove its folder in {directory / folder} and run:")
    print_text(f"   plait provision {shlex.quote(str(directory))} --{folder} {shlex.quote(client.name)}")


def _as_json(directory: Path, made: Federation) -> Mapping[str, object]:
    return {
        "authority": {"path": str(directory / "authority"), "outcome": "made" if made.authority_made else "kept"},
        "server": {**_kit_as_json(made.server), "names": list(made.server_names)},
        **{
            role.folder: [
                {"name": kit.name, "public_key": kit.public_key.hex(), **_kit_as_json(kit)}
                for kit in (*made.clients, *made.staff)
                if kit.role is role
            ]
            for role in Role
        },
    }


def _kit_as_json(kit: Provisioned) -> Mapping[str, str]:
    return {"path": str(kit.directory), "outcome": kit.outcome.value, "expires": kit.expires.isoformat()}
