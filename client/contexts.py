"""The participant of a Flower context, from the configuration of its node and of the run.

A node with ``data`` in its configuration has its own data, read with its ``columns`` and ``split``; ``name`` is its
name, ``state`` a directory for its state, ``key`` the file of the key that signs its updates, ``max-rank`` the largest
rank that it accepts (0: any), ``policy`` the file of its operator's limits, ``trainer`` the local trainer that it
allows, ``allow-plugins`` the modules whose parts a run may name, separated by commas, ``device`` what it computes on,
such as ``cuda:0,cuda:1``. A node with ``partition-id`` is one client of a simulation:
it takes its part of the run's data.
"""

from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context

from client.base import OwnClient
from client.forgotten import Forgotten
from client.settings import locked, memory_folder
from plait.config import config_from_table
from plait.data import as_dataset
from plait.errors import ConfigError, PeerError
from plait.flower.channel import ContextMemory
from plait.plugins import admit
from plait.policy import Policy, load_policy
from plait.rounds.channel import Answering
from plait.rounds.memory import ClientStore, DiskMemory
from plait.run import resolve
from plait.settle import settle
from plait.simulation.partitioned_data import load_partitioned
from plait.simulation.simulation import Simulation
from plait.trust.keys import NodeKey
from plait.wire.messages import broadcast_of

_PATIENCE_S = 600.0
"""Flower starts a task beside one that is no longer needed: of a round that is over, or of a run that goes on."""


class ContextParticipants:
    """The participants of the newest run in this process, kept until another run comes.

    Flower's engines give an app only a context with each message, of any run and any simulated client.
    """

    def __init__(self) -> None:
        self._run_of: tuple[object, ...] = ()
        self._simulation: Simulation | None = None
        self._own: OwnClient | None = None

    def __call__(self, context: Context) -> Answering:
        """The participant of a context."""
        node = context.node_config
        own = {key: value for key, value in node.items() if key not in ("partition-id", "num-partitions")}
        # The operator may have changed its policy since the last task.
        path = str(node.get("policy", ""))
        policy = load_policy(Path(path) if path else None)
        index, state = node.get("partition-id"), str(node.get("state", ""))
        forgotten = Forgotten.of(Path(state), _name(context)) if state else None
        if self._run_of != (run_of := (context.run_id, dict(context.run_config), own, policy, forgotten)):
            self._run_of, self._simulation, self._own = run_of, None, None
        if "data" in node:
            client = self._own = self._own or _own_client(context, policy)
            return Lasting(client, Path(state), context.run_id) if state else client.participant(ContextMemory(context))
        if isinstance(index, int):
            if self._simulation is None:
                config = config_from_table(context.run_config, where="run configuration")
                admit(*config.plugins)
                run = resolve(settle(config))
                self._simulation = Simulation(run, load_partitioned(run.config).partition.shares)
            return self._simulation.participant(index, ContextMemory(context))
        raise ConfigError("the node's configuration names no data; give --node-config 'data=\"FILE.jsonl\"'")


@dataclass(frozen=True)
class Lasting:
    """A client whose state is on disk, where a run that continues an earlier one finds it.

    Flower gives such a run another number. So a run's state is kept under plait's number for it, which is in the tasks,
    and under Flower's number only what is agreed on before them.
    """

    client: OwnClient
    state: Path
    flower_run: int

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task, while no other process may use this client's state; wait for one that does."""
        with locked(self.state, self.client.name, patience_s=_PATIENCE_S):
            return self._answer(task_bytes)

    def _answer(self, task_bytes: bytes) -> bytes:
        agreed = DiskMemory(memory_folder(self.state, self.flower_run, self.client.name))
        run_id = agreed.load("run") or self._run_of(task_bytes)
        if not run_id:
            return self.client.participant(agreed).answer(task_bytes)
        # A task of another run finds this one's: its account refuses it, and nothing else of it is used.
        agreed.save("run", run_id)
        memory = _Parted(agreed, DiskMemory(self.state / run_id.hex() / self.client.name))
        return self.client.participant(memory).answer(task_bytes)

    def _run_of(self, task_bytes: bytes) -> bytes:
        try:
            broadcast = broadcast_of(task_bytes, max_bytes=self.client.policy.max_task_bytes)
        except PeerError:
            return b""  # the participant reports what is wrong with it
        return broadcast.run_id if broadcast else b""


@dataclass(frozen=True)
class _Parted:
    """A `plait.rounds.memory.ClientStore` of two: spec and settings of a run, and all else."""

    agreed: ClientStore
    of_run: ClientStore

    def load(self, key: str) -> bytes | None:
        return self._where(key).load(key)

    def save(self, key: str, data: bytes) -> None:
        self._where(key).save(key, data)

    def _where(self, key: str) -> ClientStore:
        return self.agreed if key in ("settings", "spec") else self.of_run


def _name(context: Context) -> str:
    return str(context.node_config.get("name") or Path(str(context.node_config.get("data", ""))).stem)


def _own_client(context: Context, policy: Policy) -> OwnClient:
    node = context.node_config
    allowed = (module.strip() for module in str(node.get("allow-plugins", "")).split(","))
    admit(*allowed, str(node.get("trainer", "")).strip())
    data, columns, split, state = (str(node.get(name, "")) for name in ("data", "columns", "split", "state"))
    dataset, name = as_dataset(data, columns=columns, split=split), _name(context)
    key = str(node.get("key", ""))
    max_rank = node.get("max-rank", 0)
    return OwnClient(
        resolve(settle(config_from_table(context.run_config, where="run configuration"))),
        Forgotten.of(Path(state), name).without(dataset) if state else dataset,
        name=name,
        policy=policy,
        max_rank=max_rank if isinstance(max_rank, int) else 0,
        trainer=str(node.get("trainer", "")),
        devices=str(node.get("device", "")),
        group=str(node.get("group", "")),
        sign=NodeKey.load(Path(key)).sign if key else None,
    )
