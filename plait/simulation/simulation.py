"""The clients of a simulated run: one shared base in memory, each client's data, and each client's state."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from plait.composition import client_way_of
from plait.errors import PartError, PlaitError
from plait.report.terminal import say
from plait.rounds.channel import Channel, LocalChannel, StopRequest
from plait.rounds.client_pipeline import ClientContext
from plait.rounds.memory import IRREPLACEABLE, ClientStore, DiskMemory
from plait.rounds.participant import Participant
from plait.rounds.run_directory import RunDirectory
from plait.run import Run
from plait.simulation.loaded import Loaded, remembered
from plait.simulation.partition import ClientShare
from plait.training.local_model import PeftLocalModel

if TYPE_CHECKING:
    from plait.rounds.data_journal import ClientSecret
    from plait.simulation.keys import SimulatedKeys
    from plait.simulation.workers import Workers
    from plait.training.local_model import OwnTrainer
    from plait.trust.keys import NodeIdentity

# With more clients than these, the text is tokenised again for each task.
_MODELS_KEPT = 4096
_SHARED_KEPT = 4


class Simulation:
    """Everything that a simulated run needs besides the run itself.

    Args:
        shares: the data of its clients by their numbers, or of those of this process.
        loaded: what earlier runs of this process have in common with it.
    """

    def __init__(
        self,
        run: Run,
        shares: Sequence[ClientShare] | Mapping[int, ClientShare],
        loaded: Loaded | None = None,
        *,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        config = run.config
        self.run = run
        self._shares = shares
        self._progress = progress
        self._loaded = loaded or Loaded()
        self.base = self._loaded.base(run)
        self._own_trainer: OwnTrainer | None = None
        if config.trainer:
            from plait.training.bridge import load_own_trainer

            self._own_trainer = load_own_trainer(config.trainer)
        self.directory = RunDirectory(Path(config.out))
        self._terms = {rank: run.terms("", max_rank=rank) for rank in config.ranks}
        self._shared = shared_bytes()
        self._memories: dict[int, VolatileMemory] = {}
        self._models: OrderedDict[int, PeftLocalModel] = OrderedDict()
        self._workers: Workers | None = None
        self._faults: set[str] = set()

    def name(self, index: int) -> str:
        """The name of the client with this partition number."""
        return self._shares[index].name

    def model(self, index: int) -> PeftLocalModel:
        """The base with the client's data."""
        share = self._shares[index]
        make = partial(
            PeftLocalModel,
            self.base,
            share.name,
            share.records,
            held_out=share.held_out,
            kind=share.kind,
            histogram=share.histogram,
            group=self.run.config.group,
            own_trainer=self._own_trainer,
            recall=self._loaded.losses.recall,
            tokenise=self._loaded.tokens,
        )
        return remembered(self._models, index, _MODELS_KEPT, make)

    def participant(self, index: int, volatile: ClientStore | None = None) -> Participant:
        """The client with this partition number; `volatile` stores what may be lost with the process."""
        name, ranks = self.name(index), self.run.config.ranks
        max_rank = ranks[index % len(ranks)]
        if volatile is None:
            volatile = self._memories.setdefault(index, VolatileMemory(self._shared))
        memory = SimulatedMemory(volatile, self.directory.client_memory(name))
        terms = replace(self._terms[max_rank], client=name)
        identity, secret = partial(self._identity, name), partial(self._secret, name)
        context = ClientContext(name, memory, terms=terms, identity=identity, secret=secret)
        way = client_way_of(self.run.config, context)
        return Participant(
            name, self.model(index), memory, max_rank=max_rank, terms=terms, way=way, on_fault=self._show
        )

    def _show(self, error: PlaitError) -> None:
        """Show a part's author the part's own exception, once: no answer, and so no ledger, quotes it."""
        if isinstance(error, PartError) and error.in_full not in self._faults:
            self._faults.add(error.in_full)
            say(error.in_full, quiet=False)

    def vouch(self, client: str, identity: bytes, *_proof: bytes) -> bool:
        """Whether a node key is a client's."""
        return self._keys.vouch(client, identity)

    def _identity(self, name: str) -> "NodeIdentity":
        return self._keys.identity(name)

    def _secret(self, name: str) -> "ClientSecret":
        return self._keys.secret(name)

    @cached_property
    def _keys(self) -> "SimulatedKeys":
        from plait.simulation.keys import SimulatedKeys

        return SimulatedKeys(self.run.config.seed)

    def channel(self, stop: StopRequest | None = None) -> Channel:
        """A channel to all clients, by the virtual clock of their fleet if they have one."""
        if not self.run.config.fleet:
            return self.direct(stop)
        from plait.simulation.virtual_clock import by_the_clock

        return by_the_clock(self, stop)

    def close(self) -> None:
        """End the workers."""
        if self._workers:
            self._workers.close()

    def direct(self, stop: StopRequest | None) -> Channel:
        """A channel to all clients, in this process or spread over others."""
        if not self.run.config.has_several_devices:
            return self.here(stop)
        from plait.simulation.workers import Workers

        self._workers = Workers(self.run, self._shares, stop=stop, progress=self._progress)
        return self._workers

    def here(self, stop: StopRequest | None = None) -> LocalChannel:
        """A channel to all clients, all in this process."""
        return LocalChannel(self.participant, self.run.config.clients, stop=stop)


def shared_bytes() -> Callable[[bytes], bytes]:
    """A function that gives one copy of equal bytes: all clients of a simulation hold the same adapter."""
    return lru_cache(maxsize=_SHARED_KEPT)(bytes)


class VolatileMemory:
    """A `plait.rounds.memory.ClientStore` that ends with the process; `shared` (`shared_bytes`) by all its clients."""

    def __init__(self, shared: Callable[[bytes], bytes]) -> None:
        self._shared = shared
        self._kept: dict[str, bytes] = {}

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        return self._kept.get(key)

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        self._kept[key] = self._shared(data)


class SimulatedMemory:
    """The memory of a simulated client: values without another copy are on disk, for a resumed run."""

    def __init__(self, volatile: ClientStore, folder: Path) -> None:
        self._volatile = volatile
        self._kept = DiskMemory(folder, advice="free some, then continue with `plait resume`")

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        return self._of(key).load(key)

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`; MachineError if the disk is full or read-only."""
        self._of(key).save(key, data)

    def _of(self, key: str) -> ClientStore:
        return self._kept if key in IRREPLACEABLE else self._volatile
