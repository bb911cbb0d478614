"""A node keeps to its contract: it declines what is outside, and adds epsilon up over all runs.

A server keeps to it too, if its kit has one; clients do not rely on that. The contract lies in the kit:
``KIT/contract/contract.toml``, members' signatures beside it, and node keys that were revoked in ``revoked.txt``. So
does a client's account, with a copy in the node's state: what either has counts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from plait.errors import ConfigError, PlaitError, PolicyError
from plait.features.contract.signatures import SUFFIX, Signature, signed_by
from plait.features.contract.terms import Contract, read_contract
from plait.files import cannot_write, make_private_directory, read_if_there, write_atomically
from plait.places import at
from plait.trust.kit import AUTHORITY_FILE
from plait.trust.secret_file import read_small
from plait.welcome import config_from_welcome

if TYPE_CHECKING:
    from client.runner import Run, TaskRunner
    from client.settings import NodeSettings
    from plait.api.serving import Act

FOLDER, FILE, REVOKED = "contract", "contract.toml", "revoked.txt"
_SLACK = 1 + 1e-9


def enforced(settings: NodeSettings, opening: Callable[[Run], TaskRunner]) -> Callable[[Run], TaskRunner]:
    """What opens a run at a node, if it is within the node's contract; a node without one is as it was."""
    kit = settings.kit
    if kit is None or not (kit.directory / FOLDER / FILE).exists():
        return opening

    def opened(run: Run) -> TaskRunner:
        try:
            contract = contract_in(kit.directory / FOLDER, kit.tls.authority)
            config = config_from_welcome(run.config).to_table()
            contract.check_run(config)
            account = Account(
                (kit.directory / FOLDER, settings.state), f"{kit.name}.{contract.digest[:16]}.account.jsonl"
            )
            if contract.unit:
                # A server may give two runs one number, but not one number and the same settings.
                told = json.dumps(dict(run.config), sort_keys=True).encode()
                name = f"{run.run_id:016x}.{hashlib.sha256(told).hexdigest()[:16]}"
                account.charge(contract, name, float(config["dp-epsilon"]), float(config["dp-delta"]))
        except PlaitError as error:
            return at("client.runner:DecliningRunner")(run, settings.name, error)
        return opening(run)

    return opened


def admitted(kit: Path, act: Act) -> None:
    """Refuse what the contract of a server does not allow; a server without one is as it was.

    Raises:
        PolicyError: it is outside the contract, or the contract is not in force.
        PlaitError: the contract, or a signature under it, cannot be read.
    """
    if not (kit / FOLDER / FILE).exists():
        return
    contract = contract_in(kit / FOLDER, read_small(kit / AUTHORITY_FILE))
    if act.by:
        contract.check_person(act.kind, act.by)
    if act.kind != "fetch":
        contract.check_run(act.settings)


def contract_in(folder: Path, authority: bytes) -> Contract:
    """The contract in a folder, once it is in force.

    Raises:
        PolicyError: too few members have signed.
        ConfigError: it contradicts itself.
        PeerError: a file is no signature.
    """
    contract = read_contract(folder / FILE)
    revoked = (read_if_there(folder / REVOKED) or b"").decode(errors="replace").split()
    signatures = [Signature.load(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    members = signed_by(contract, signatures, authority, revoked)
    if len(members) < contract.needed:
        raise PolicyError(
            f"the contract is not in force, clause needed: {len(members)} of {len(contract.members)} members have "
            f"signed ({', '.join(members) or 'none'}), expected {contract.needed}"
        )
    return contract


@dataclass(frozen=True)
class Account:
    """What a client has spent under a contract, over all runs.

    Attributes:
        folders: where it is kept; what any has counts, so that neither a moved state nor a new kit forgets.
    """

    folders: tuple[Path, ...]
    name: str

    def runs(self) -> dict[str, tuple[float, float]]:
        """Epsilon and delta of each run.

        Raises:
            ConfigError: a file is damaged, so what was spent is unknown.
            MachineError: it cannot be read.
        """
        found: dict[str, tuple[float, float]] = {}
        for folder in self.folders:
            for line in (read_if_there(folder / self.name) or b"").split(b"\n")[:-1]:
                try:
                    entry = cast("dict[str, Any]", json.loads(line))
                    found[str(entry["run"])] = float(entry["epsilon"]), float(entry["delta"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ConfigError(
                        f"account '{folder / self.name}' is damaged: what was spent is unknown"
                    ) from error
        return found

    def charge(self, contract: Contract, run: str, epsilon: float, delta: float) -> None:
        """Charge a run before answering any of its tasks; a run is charged once.

        Raises:
            PolicyError: all runs together would exceed the contract's epsilon.
            MachineError: it cannot be written.
        """
        runs = self.runs()
        total = composed({**runs, run: (epsilon, delta)}, contract.delta)
        if total > contract.epsilon * _SLACK:
            before = composed(runs, contract.delta)
            raise PolicyError(
                f"the run would bring epsilon of all runs to {total:.4g} at delta {contract.delta:g}, {before:.4g} of "
                f"it in earlier runs, but clause epsilon of the contract allows {contract.epsilon:g}"
            )
        if run not in runs:
            for folder in self.folders:
                _append(folder, self.name, {"run": run, "epsilon": epsilon, "delta": delta})


def composed(runs: dict[str, tuple[float, float]], delta: float) -> float:
    """Epsilon of all runs at a delta: Gaussian mechanisms compose exactly."""
    from plait.features.privacy.accountant import epsilon_at, mu_at

    return epsilon_at(delta, math.sqrt(sum(mu_at(epsilon, of) ** 2 for epsilon, of in runs.values())))


def _append(folder: Path, name: str, entry: dict[str, object]) -> None:
    path = folder / name
    try:
        make_private_directory(folder)
    except OSError as error:
        raise cannot_write(path, error) from error
    line = json.dumps(entry, sort_keys=True).encode() + b"\n"
    write_atomically(path, (read_if_there(path) or b"") + line, mode=0o600)
