"""Clients in this process that attend a server over gRPC on loopback, and a server beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import plait

Rows = Sequence[dict[str, str]]

SMALL = {
    "base": "tiny", "rounds": 2, "local_steps": 2, "batch_size": 2, "seq_len": 32, "rank": 2, "learning_rate": 1e-2,
    "dtype": "float32", "quiet": True,
}  # fmt: skip
NAMES = ("ada", "bob", "eve")


def rows() -> list[dict[str, str]]:
    """Three authors whose texts differ."""
    texts = {
        "ada": "def add_{0}(left, right):\n    return left + right\n",
        "bob": "The quick brown fox number {0} jumps over the lazy dog.\n",
        "eve": "x = [{0}, {0} + 1]\nprint(sum(x))\n",
    }
    return [{"text": text.format(number) * 3, "author": name} for number in range(24) for name, text in texts.items()]


def shares_of(rows: Rows) -> dict[str, list[dict[str, str]]]:
    shares: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        shares.setdefault(row["author"], []).append(row)
    return shares


def attend(
    address: str, shares: Mapping[str, Rows], folder: Path, *, kits: Path | None = None, **more: object
) -> list[plait.Client]:
    """Start clients with these data by name, who keep states and a policy in `folder`, with TLS if there are `kits`."""
    policy = folder / "policy.toml"
    if not policy.exists():
        policy.write_text("min-examples = 1\nmin-tokens = 1\n")
    common = {"state": folder / "state", "policy": policy, "dtype": "float32", "quiet": True, **more}
    clients: list[plait.Client] = []
    for name, share in shares.items():
        trust = {"kit": kits / "clients" / name} if kits else {"name": name, "insecure": True}
        server = address.replace("127.0.0.1", "localhost")
        clients.append(plait.Client(share, server=server, **common, **trust))  # type: ignore[arg-type]
    for client in clients:
        client.start()
    return clients


def served(
    out: Path, shares: Mapping[str, Rows], folder: Path, *, kits: Path | None = None, **settings: object
) -> plait.Result:
    """A run of these clients and a server to its end; arguments as for `attend` and of `plait.Server`."""
    trust = {"kit": kits / "server"} if kits else {"insecure": True}
    given = {"quiet": True, **trust, **settings}
    with plait.Server(out=out, **given) as server:  # type: ignore[arg-type]
        clients = attend(server.address, shares, folder, kits=kits)
        run = server.wait(timeout_s=600)
        for client in clients:
            client.wait(timeout_s=180)
    return run
