"""An operator's settings of a node, checked before anything is loaded or connected to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from client.enrolment import Credential
from client.state_directory import default_state_directory
from client.wording import shown
from plait.address import Address
from plait.config import config_from_table
from plait.errors import ConfigError, PolicyError
from plait.files import at_home
from plait.policy import Policy, load_policy
from plait.transport.labels import parse_labels
from plait.trust.kit import ClientKit
from plait.trust.names import check_client_name, composed


@dataclass(frozen=True)
class NodeSettings:
    """Everything that determines how a node works.

    Attributes:
        kit: the node's kit; None on an insecure loopback connection.
        data: its own data, as `plait.data.as_dataset` takes them.
        columns: which of their columns hold what, as in the run configuration.
        split: the split to train on, or this and the one that is held out, as in the run configuration.
        base: replaces the run's base, if it has another name here: one for all runs, or ``NAME=DIRECTORY,…`` by the
            name that a run gives it; empty for the run's.
        trainer: the local trainer that a run may name; a run that names another is refused.
        allow_plugins: modules whose parts a run may name.
        device: to compute on; of several, such as ``cuda:0,cuda:1``, each computes a part of every step.
        max_memory_bytes: most memory of each device that it announces, plans training for and, of a CUDA GPU, uses; 0
            for all.
        max_rank: the largest rank of an adapter that it accepts; 0 for any.
        consents: whether the operator consented to any run within the policy (``--yes``).
        labels: what the operator says of this machine; runs may ask for them.
        trainer_exec: command of a program that trains instead of plait; empty for none.
    """

    server: Address
    kit: ClientKit | None
    name: str
    data: str
    base: str
    trainer: str
    device: str
    dtype: str
    threads: int
    state: Path
    max_memory_bytes: int
    max_rank: int = 0
    policy: Policy = field(default_factory=Policy)
    consents: bool = False
    columns: str = ""
    split: str = ""
    allow_plugins: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    trainer_exec: str = ""

    @property
    def credential(self) -> Credential:
        """The node's identity, for the server."""
        return Credential(self.name, self.kit.node_key if self.kit else None, self.labels)

    @property
    def bases(self) -> dict[str, str]:
        """The bases that the operator named by the run's name for them; empty where one is for all runs."""
        return _named_bases(self.base)

    def base_for(self, named: str) -> str:
        """What replaces a run's base here; empty for nothing."""
        return self.bases.get(named, "") if self.bases else self.base


def check_settings(
    *,
    server: str,
    data: str,
    columns: str = "",
    split: str = "",
    kit: Path | None = None,
    name: str = "",
    insecure: bool = False,
    base: str = "",
    trainer: str = "",
    allow_plugins: Iterable[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
    state: Path | None = None,
    max_memory_gb: float = 0.0,
    max_rank: int = 0,
    policy: Path | None = None,
    dp_max_epsilon: float = 0.0,
    require_secure_aggregation: bool = False,
    yes: bool = False,
    labels: str = "",
    trainer_exec: str = "",
) -> NodeSettings:
    """Check an operator's input, as far as possible without reading the data.

    Raises:
        ConfigError: it is invalid; one line with the remedy.
        MachineError: the kit cannot be read.
    """
    if isinstance(allow_plugins, str):
        raise ConfigError(f"allow-plugins is '{allow_plugins}', expected a list of modules")
    address = Address.parse(server, what="server")
    if insecure and kit is not None:
        raise ConfigError("kit and insecure are both given, expected one of them: with a kit the connection is secure")
    if insecure and not address.is_loopback:
        raise ConfigError(
            f"server is {address} and the connection insecure, expected a server on this machine (localhost) or --kit"
        )
    if not insecure and kit is None:
        raise ConfigError(
            "kit is missing, expected --kit DIR with the start-up kit that `plait provision` made for this node "
            "(or --insecure for a server on this machine)"
        )
    _named_bases(base)
    if not (math.isfinite(max_memory_gb) and max_memory_gb >= 0):
        raise ConfigError(f"max-memory-gb is {max_memory_gb}, expected 0 or more")
    if max_rank < 0:
        raise ConfigError(f"max-rank is {max_rank}, expected 0 or more")
    if not (math.isfinite(dp_max_epsilon) and dp_max_epsilon >= 0):
        raise ConfigError(f"dp-max-epsilon is {dp_max_epsilon}, expected 0 or more")
    limits = load_policy(policy)
    if dp_max_epsilon:
        limits = limits.model_copy(update={"dp_max_epsilon": dp_max_epsilon})
    if require_secure_aggregation:
        limits = limits.model_copy(update={"require_secure_aggregation": True})
    if limits.require_secure_aggregation and insecure:
        raise ConfigError(
            "require-secure-aggregation and insecure are both given, expected --kit: without keys a client cannot "
            "tell real clients from ones that the server made up"
        )
    check_device(device, trainer)
    if trainer_exec and trainer:
        raise ConfigError("trainer and trainer-exec are both given, expected one of them")
    machine: dict[str, object] = {"device": device, "dtype": dtype, "threads": threads}
    config_from_table(machine, where="command line")
    loaded = ClientKit.load(kit) if kit else None
    if loaded and name and name != loaded.name:
        raise ConfigError(f"name is {name!a}, but kit '{kit}' was made for '{loaded.name}'; leave --name out")
    return NodeSettings(
        server=address,
        kit=loaded,
        name=loaded.name if loaded else check_client_name(composed(name or Path(data).stem)),
        data=data,
        columns=columns,
        split=split,
        base=base,
        trainer=trainer,
        device=device,
        dtype=dtype,
        threads=threads,
        state=at_home(state or default_state_directory()).absolute(),
        max_memory_bytes=int(max_memory_gb * 1e9),
        max_rank=max_rank,
        policy=limits,
        consents=yes,
        allow_plugins=tuple(allow_plugins),
        labels=parse_labels(labels, what="labels"),
        trainer_exec=trainer_exec,
    )


def _named_bases(text: str) -> dict[str, str]:
    if "=" not in text or at_home(text).is_dir():
        return {}
    bases: dict[str, str] = {}
    for part in text.split(","):
        name, _, place = (each.strip() for each in part.partition("="))
        if not name or not place or name in bases:
            raise ConfigError(f"base is '{text}', expected one DIRECTORY, or NAME=DIRECTORY,… with every name once")
        bases[name] = place
    return bases


def check_device(device: str, trainer: str) -> None:
    """Refuse a list of devices for a trainer of the operator's own.

    Raises:
        ConfigError: it is one.
    """
    if trainer and "," in device:
        raise ConfigError(
            f"device is '{device}' and trainer '{trainer}', expected one device: a trainer of your own computes on one"
        )


def check_trainer(named: str, allowed: str) -> None:
    """Refuse a run that names another local trainer than the operator does: code that a server chooses.

    Raises:
        PolicyError: it does.
    """
    if named != allowed:
        raise PolicyError(
            f"the run trains with '{shown(named) or 'plait itself'}', but this node allows "
            f"'{allowed or 'plait itself'}'; give --trainer {shown(named) or '(nothing)'} to agree"
        )
