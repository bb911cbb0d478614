"""A node's settings, checked before anything is loaded or connected to; its state directory and identity."""

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Annotated, Required, TypeAlias, TypedDict, Unpack

import platformdirs

from client.task import shown
from plait.config import config_from_table
from plait.errors import ConfigError, MachineError, PolicyError
from plait.policy import Policy, load_policy
from plait.system.address import Address
from plait.system.files import at_home, make_private_directory
from plait.system.text import check_client_name, composed
from plait.trust.keys import NodeIdentity
from plait.trust.kit import ClientKit, Endorsement, is_vouched_for

RUNS_KEPT = 4
"""Number of newest runs per name whose state is kept in full."""
_OWN = "own"
_PAUSE_S = 0.2
_REPLACEABLE = ("adapter", "base", "settings", "spec")


def default_state_directory() -> Path:
    """The directory for state in the user's home."""
    return platformdirs.user_state_path("plait")


def memory_folder(state: Path, run_id: int, name: str) -> Path:
    """Directory of the node `name` in a run."""
    return state / f"{run_id:016x}" / name


def prune(state: Path, name: str, *, keep: Path) -> tuple[int, int]:
    """Remove the parts of old runs that the server could send again; gives the number of runs that remain, and bytes.

    `keep` and the newest others stay complete. Unique parts stay until the operator removes them: a personalized
    adapter and its inputs, an encoder's residual, an optimizer's moments, a drift.
    """
    folders = sorted((folder for folder in state.glob(f"*/{name}") if folder != keep), key=_age, reverse=True)
    for folder in folders[RUNS_KEPT - 1 :]:
        with contextlib.suppress(OSError):
            if not (folder / _OWN).exists():
                for key in _REPLACEABLE:
                    (folder / key).unlink(missing_ok=True)
            folder.rmdir()  # fails if something unique is in it
            folder.parent.rmdir()  # fails if another node's state is there
    left = [folder for folder in folders if folder.is_dir()]
    return len(left), sum(map(_size, left))


@contextlib.contextmanager
def locked(state: Path, name: str, *, patience_s: float = 0.0) -> Generator[None]:
    """Lock the state of a name for this process; the system releases it however the process ends."""
    path = state / f"{name}.lock"
    try:
        make_private_directory(state)
        # What was copied here may be open to others.
        for folder in (each for kept in state.glob(f"*/{name}") for each in (kept.parent, kept)):
            folder.chmod(0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}; give another --state") from error
    try:
        try:
            _lock(descriptor, patience_s)
        except BlockingIOError as error:
            raise ConfigError(
                f"state '{state}' of '{name}' is in use by process {_holder(descriptor)}, expected one node per name; "
                "stop the other, or give another name or state"
            ) from error
        except OSError as error:
            raise MachineError(f"cannot lock '{path}': {error.strerror or error}; give another --state") from error
        # Only for the message to the next process; a full disk must not stop the work.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
    return text if text.isdecimal() else "unknown"


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def identity_of(kit: ClientKit) -> NodeIdentity:
    """What a client with a kit signs with, and how it knows others: by the authority of its federation."""
    own = Endorsement.of(kit)
    key = kit.node_key
    return NodeIdentity(
        key.public_bytes, key.sign, partial(is_vouched_for, kit.tls.authority), own.certificate, own.signature
    )


Place: TypeAlias = str | PathLike[str] | None


class NodeOptions(TypedDict, total=False):
    """An operator's options for a node, with their help; by default empty, 0, off or auto."""

    server: Annotated[Required[str], "Address of the server, HOST:PORT."]
    split: Annotated[str, "Split to train on, or TRAIN,HELD_OUT; see plait simulate."]
    group: Annotated[str, "Column of your data that names whom a record belongs to; by default the run's."]
    kit: Annotated[Place, "This node's start-up kit, from `plait provision`."]
    name: Annotated[str, "Name of this node if it has no kit; by default the name of the data."]
    insecure: Annotated[bool, "Connect without TLS and keys; loopback addresses only."]
    trainer: Annotated[str, "Allow this local trainer, MODULE:FUNCTION, if the run uses one."]
    allow_plugins: Annotated[
        Iterable[str],
        "Allow parts of this module, such as a loss, if the run names one. May be repeated. Installed distributions "
        "need no permission.",
    ]
    device: Annotated[str, "auto, cpu, cuda, cuda:N or mps; several, such as cuda:0,cuda:1, for one large base."]
    dtype: Annotated[str, "auto, float32, bfloat16 or float16."]
    threads: Annotated[int, "CPU threads; 0 means torch's default."]
    state: Annotated[Place, "Directory of the node's state; by default in your home directory."]
    max_memory_gb: Annotated[
        float,
        "Memory limit of each device: announced to the server, planned for and, on CUDA, enforced; 0 for all.",
    ]
    max_rank: Annotated[int, "Largest rank to accept if the rule mixes ranks; 0 for any."]
    policy: Annotated[Place, "TOML file that limits what a server may ask; safe limits by default."]
    dp_max_epsilon: Annotated[
        float, "Refuse runs without differential privacy or with a larger epsilon; 0 accepts any."
    ]
    require_secure_aggregation: Annotated[
        bool, "Refuse runs without secure aggregation, where the server would see this client's update."
    ]


class CommandOptions(NodeOptions, total=False):
    """The same with what a program gives as objects."""

    data: Annotated[Required[str], "Your data, as in plait simulate. It never leaves this machine."]
    columns: Annotated[str, "Columns that have other names, such as text=body; see plait simulate."]
    base: Annotated[
        str, "The run's base, if it has another name or path on this machine; NAME=DIR,NAME=DIR for several."
    ]
    yes: Annotated[bool, "Consent to any run that the policy allows, without asking."]


@dataclass(frozen=True)
class NodeSettings:
    """What determines how a node works, by `NodeOptions` and `CommandOptions`; `consents` is ``--yes``."""

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
    group: str = ""
    allow_plugins: tuple[str, ...] = ()

    @property
    def bases(self) -> dict[str, str]:
        """The bases that the operator named by the run's name for them; empty where one is for all runs."""
        return _named_bases(self.base)

    def base_for(self, named: str) -> str:
        """What replaces a run's base here; empty for nothing."""
        return self.bases.get(named, "") if self.bases else self.base


def check_settings(**given: Unpack[CommandOptions]) -> NodeSettings:
    """Check an operator's input, as far as possible without reading the data."""
    _check_known(given)
    address, insecure = Address.parse(given["server"], what="server"), given.get("insecure", False)
    kit = None if (place := given.get("kit")) is None else Path(place)
    _check_connection(address, kit, insecure=insecure)
    allowed, base, memory_gb = given.get("allow_plugins", ()), given.get("base", ""), given.get("max_memory_gb", 0.0)
    if isinstance(allowed, str):
        raise ConfigError(f"allow-plugins is '{allowed}', give a list of modules")
    _named_bases(base)
    if not (math.isfinite(memory_gb) and memory_gb >= 0):
        raise ConfigError(f"max-memory-gb is {memory_gb}, expected 0 or more")
    if (max_rank := given.get("max_rank", 0)) < 0:
        raise ConfigError(f"max-rank is {max_rank}, expected 0 or more")
    trainer, device = given.get("trainer", ""), given.get("device", "auto")
    check_device(device, trainer)
    machine = {"device": device, "dtype": given.get("dtype", "auto"), "threads": given.get("threads", 0)}
    computing = config_from_table(machine, where="command line")
    loaded, name = ClientKit.load(kit) if kit else None, given.get("name", "")
    if loaded and name and name != loaded.name:
        raise ConfigError(f"name is {name!a}, but kit '{kit}' was made for '{loaded.name}'; leave --name out")
    return NodeSettings(
        server=address,
        kit=loaded,
        name=loaded.name if loaded else check_client_name(composed(name or Path(given["data"]).stem)),
        data=given["data"],
        columns=given.get("columns", ""),
        split=given.get("split", ""),
        group=given.get("group", ""),
        base=base,
        trainer=trainer,
        device=device,
        dtype=computing.dtype,
        threads=computing.threads,
        state=at_home(Path(given.get("state") or default_state_directory())).absolute(),
        max_memory_bytes=int(memory_gb * 1e9),
        max_rank=max_rank,
        policy=_limits(given, insecure=insecure),
        consents=given.get("yes", False),
        allow_plugins=tuple(allowed),
    )


def _check_known(given: Mapping[str, object]) -> None:
    """Refuse arguments that no node has, and to do without those that all need."""
    for name in given.keys() - CommandOptions.__annotations__.keys():
        raise TypeError(f"got an unexpected keyword argument '{name}'")
    for name in CommandOptions.__required_keys__ - given.keys():
        raise TypeError(f"missing a required argument: '{name}'")


def _check_connection(address: Address, kit: Path | None, *, insecure: bool) -> None:
    if insecure and kit is not None:
        raise ConfigError("kit and insecure are both given; give one of them: with a kit the connection is secure")
    if insecure and not address.is_loopback:
        raise ConfigError(
            f"server is {address} and the connection insecure, expected a server on this machine (localhost) or --kit"
        )
    if not insecure and kit is None:
        raise ConfigError(
            "kit is missing; give --kit DIR with the start-up kit that `plait provision` made for this node "
            "(or --insecure for a server on this machine)"
        )


def _limits(given: CommandOptions, *, insecure: bool) -> Policy:
    place, epsilon = given.get("policy"), given.get("dp_max_epsilon", 0.0)
    limits = load_policy(None if place is None else Path(place))
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ConfigError(f"dp-max-epsilon is {epsilon}, expected 0 or more")
    if epsilon:
        limits = limits.model_copy(update={"dp_max_epsilon": epsilon})
    if given.get("require_secure_aggregation"):
        limits = limits.model_copy(update={"require_secure_aggregation": True})
    if limits.require_secure_aggregation and insecure:
        raise ConfigError(
            "require-secure-aggregation and insecure are both given; give --kit: without keys a client cannot "
            "tell real clients from ones that the server made up"
        )
    return limits


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
    """Refuse a list of devices for a trainer of the operator's own."""
    if trainer and "," in device:
        raise ConfigError(
            f"device is '{device}' and trainer '{trainer}', expected one device: a trainer of your own computes on one"
        )


def check_trainer(named: str, allowed: str) -> None:
    """Refuse a run that names another local trainer than the operator does: code that a server chooses."""
    if named != allowed:
        raise PolicyError(
            f"the run trains with '{shown(named) or 'plait itself'}', but this node allows "
            f"'{allowed or 'plait itself'}'; give --trainer {shown(named) or '(nothing)'} to agree"
        )
