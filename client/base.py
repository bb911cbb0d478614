"""Make ready for a run with plait's own ClientApp: bring its base here, and say what this node can do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from client.settings import NodeSettings
from client.wording import shown
from client.workplace import AppWorkplace, Capacity, Run
from plait import machine
from plait.config import Scalar, config_from_table
from plait.errors import BaseMismatchError, ConfigError


def node_run_config(run_config: Mapping[str, Scalar], settings: NodeSettings) -> dict[str, Scalar]:
    """The run configuration as this node sees it: what concerns its machine is its operator's choice.

    Raises:
        ConfigError: the run names a trainer that the operator did not allow. It would be code of the server's choice.
    """
    trainer = run_config.get("trainer", "")
    if trainer != settings.trainer:
        raise ConfigError(
            f"the run trains with '{shown(str(trainer)) or 'plait itself'}', but this node allows "
            f"'{settings.trainer or 'plait itself'}'; give --trainer {shown(str(trainer)) or '(nothing)'} to agree"
        )
    own: dict[str, Scalar] = {"device": settings.device, "dtype": settings.dtype, "threads": settings.threads}
    if settings.base:
        own |= {"base": settings.base, "revision": ""}
    return dict(run_config) | own


def check_machine(settings: NodeSettings, *, progress: Callable[[str], None]) -> None:
    """See that the device and the base that the operator named are there, before anybody waits for this node.

    Raises:
        ConfigError: one of them is not.
        MachineError: the base is not to be had.
    """
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.device import choose_compute

    quiet_libraries()
    choose_compute(settings.device, settings.dtype)
    if settings.base:
        locate_base(settings.base, progress=progress)


def open_workplace(run: Run, settings: NodeSettings, *, progress: Callable[[str], None]) -> AppWorkplace:
    """Load plait's ClientApp and the run's base; may take minutes where the base has to be fetched.

    Raises:
        BaseMismatchError: the base here is not the one that the run adapts.
        PlaitError: the base is not to be had, or the run configuration makes no sense.
    """
    from client.app import app
    from plait.simulation.clients import resident_base
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.methods import METHODS

    quiet_libraries()
    table = node_run_config(run.config, settings)
    config = config_from_table(table, where="run configuration")
    try:
        located = locate_base(config.base, revision=config.revision, progress=progress)
    except ConfigError as error:
        hint = "" if settings.base else "; give --base DIRECTORY if it is called otherwise here"
        raise ConfigError(f"{error}{hint}") from error
    found = bytes.fromhex(located.reference.fingerprint)
    if run.base_fingerprint and found != run.base_fingerprint:
        raise BaseMismatchError(
            f"base '{config.base}' is {found.hex()[:16]} here, expected {run.base_fingerprint.hex()[:16]} as at the "
            "server; give --base the model that the run adapts, weights, config and tokenizer alike"
        )
    compute = resident_base(config).compute
    device, memory = _device(str(compute.device))
    return AppWorkplace(
        app,
        run,
        run_config=table,
        node_config=settings.node_config,
        capacity=Capacity(
            base_fingerprint=found,
            methods=tuple(sorted(METHODS)),
            memory_bytes=min(memory, settings.max_memory_bytes or memory),
            device=f"{device}, {compute.dtype_name}",
        ),
    )


def _device(name: str) -> tuple[str, int]:
    """A device in words, and its memory in bytes."""
    from plait.training.device import gpus

    if not name.startswith("cuda"):
        return name, machine.memory_bytes()
    index = int(name.partition(":")[2] or 0)
    model, memory = gpus()[index]
    return f"cuda:{index} {model}", memory
