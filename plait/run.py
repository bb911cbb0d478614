"""One run, resolved: everything that follows from its settings and its base, computed once.

Each verb makes a `Run` and passes it down; code below derives nothing from the settings again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait import composition
from plait.adapters import AdapterSpec
from plait.adapters.method import AdapterRequest, BaseModules, is_in
from plait.aggregation import Rule, check_rule, geometry_of
from plait.config import RunConfig
from plait.ledger.events import Adapter, Base
from plait.rounds.fold import Aggregator, Folding
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import MessageBits
from plait.rounds.run_state import RankedAdapter, Ranks
from plait.rounds.spool import Refused, Spool, largest_update
from plait.rounds.terms import AgreedTerms
from plait.settle import ResolvedConfig
from plait.training.bases import LocatedBase, locate_base, quiet_libraries
from plait.training.blueprint import AdapterTemplate, base_modules, design, read_base_config
from plait.training.device import Compute, choose_devices, one_base_over, use_threads
from plait.training.resident import ResidentBase

if TYPE_CHECKING:
    from plait.policy import Policy


@dataclass(frozen=True, eq=False)
class Run:
    """A run, the same at server and clients."""

    settled: ResolvedConfig
    base: LocatedBase
    base_parameters: int
    ranks: Ranks

    @property
    def config(self) -> RunConfig:
        """Its settings."""
        return self.settled.config

    @property
    def rule(self) -> Rule:
        """The aggregation rule."""
        return self.settled.rule

    @property
    def base_fingerprint(self) -> bytes:
        """SHA-256 of the base, 32 bytes."""
        return bytes.fromhex(self.base.reference.fingerprint)

    @property
    def devices(self) -> tuple[Compute, ...]:
        """The devices of this machine that the settings name; several only for a simulation."""
        return choose_devices(self.config.device, self.config.dtype)

    @property
    def base_recorded(self) -> Base:
        """The base, as ledgers record it."""
        return Base(
            name=self.config.base,
            fingerprint=self.base.reference.fingerprint,
            parameters=self.base_parameters,
            task=self.ranks.master.spec.task.value,
        )

    @property
    def adapter_recorded(self) -> Adapter:
        """The adapter, as ledgers record it."""
        spec = self.ranks.master.spec
        return Adapter(
            method=spec.method,
            rank=spec.rank,
            alpha=spec.alpha,
            target_modules=spec.peft_config.get("target_modules"),
            trainable_parameters=spec.layout.size,
            tensors=len(spec.layout.slots),
            spec_digest=spec.digest.hex(),
        )

    @property
    def screen(self) -> composition.Screen | None:
        """What the run's ledgers keep of an event; None for all of it."""
        bits = self.settled.codec.bits
        update_bytes = math.ceil(largest_update(self.rule, self.ranks.master.geometry) * bits / 8)
        return composition.screen_of(self.config, update_bytes)

    def aggregator(self, directory: RunDirectory, folding: Folding, refused: Refused) -> Aggregator:
        """What makes the run's rounds out of its stored updates."""
        spool = Spool(
            directory=directory,
            refused=refused,
            ranks=self.ranks,
            rule=self.rule,
            base_fingerprint=self.base_fingerprint,
            plan=self.settled.plan,
        )
        return Aggregator(spool, folding(spool), self.settled.optimizer)

    def terms(self, client: str, *, max_rank: int = 0, policy: "Policy | None" = None) -> AgreedTerms:
        """A client's agreement when it takes part.

        Raises:
            PolicyError: the run asks for more than the policy allows.
        """
        largest, own = (self.ranks.adapters[self.ranks.track_for(rank)].spec for rank in (0, max_rank))
        if policy:
            policy.check_run(self.config)
            base = base_modules(read_base_config(self.base.directory, own.task, own.labels), own.task)
            _check_reach(policy, own, base)
            policy.check_upload(own.layout.size * links_of(self.settled, own.layout.size, evaluates=True).up / 8)
        return AgreedTerms(client, self.settled.tasks, (largest, own), own, policy)

    def load_base(self, devices: str = "") -> ResidentBase:
        """The base in this process's memory; reads nothing before it is needed.

        Args:
            devices: to compute on; GPUs of a list share one base. By default the first that the settings name.

        Raises:
            ConfigError: this machine has no such device.
        """
        use_threads(self.config.threads, processes=1 if devices else len(self.devices))
        compute, others = one_base_over(devices, self.config.dtype) if devices else (self.devices[0], ())
        return ResidentBase(
            self.base.directory,
            self.base.reference.fingerprint,
            compute,
            seq_len=self.config.seq_len,
            adapter_in_float32=bool(self.config.trainer),
            others=others,
        )


def resolve(
    settled: ResolvedConfig, base: LocatedBase | None = None, *, progress: Callable[[str], None] = lambda _: None
) -> Run:
    """Resolve a run.

    Args:
        base: of the run; by default the one that the settings name is located or downloaded.

    Raises:
        ConfigError: the base cannot carry the adapters, or the rule does not support them.
        MachineError: the base cannot be downloaded.
    """
    quiet_libraries()
    config, rule = settled.config, settled.rule
    base = base or locate_base(config.base, progress=progress)
    lower = sorted({rank for rank in config.ranks if rank != config.rank}, reverse=True)
    blueprints = {
        rank: blueprint_of(settled, base.directory, rank=rank, init_rank=0 if rank == config.rank else config.rank)
        for rank in (config.rank, *lower)
    }
    adapters = tuple(
        RankedAdapter(rank, blueprint.spec, geometry_of(blueprint.spec), blueprint.initial)
        for rank, blueprint in blueprints.items()
    )
    ranks = Ranks(adapters, resizing=rule.resizing, clients_have_masters=config.rank in config.ranks)
    check_rule(rule, ranks.master.geometry, cohort=ranks.cohort, clients=config.cohort_size)
    # What no link can carry is refused now.
    links_of(settled, largest_update(rule, ranks.master.geometry), evaluates=False)
    return Run(settled, base, blueprints[config.rank].base_parameters, ranks)


def blueprint_of(
    settled: ResolvedConfig, base_directory: Path, *, rank: int | None = None, init_rank: int = 0, weights: bool = True
) -> AdapterTemplate:
    """The requested adapter, on the base in this directory.

    Args:
        weights: whether the base's weights are available; without them initial values that depend on them are zeros.
    """
    config, task = settled.config, settled.task
    return design(
        read_base_config(base_directory, task, config.label_names),
        request_of(settled, rank or config.rank),
        task=task,
        labels=config.label_names,
        seed=config.seed,
        init_rank=init_rank,
        weights=base_directory if weights else None,
    )


def _check_reach(policy: "Policy", spec: AdapterSpec, base: BaseModules) -> None:
    """Refuse an adapter with a tensor on a module that the policy does not allow, whatever the module is called."""
    in_blocks = {*base.linear, *base.norms}
    for name in spec.layout.by_name:
        if is_in(name, base.heads):
            continue
        module = next((part for part in name.split(".") if part in in_blocks), "")
        if module:
            policy.check_targets([name[: name.index(module) + len(module)]])
        elif not name.startswith("prompt_"):
            policy.check_outside_blocks(name)


def request_of(settled: ResolvedConfig, rank: int) -> AdapterRequest:
    """The adapter that the settings ask for, with this rank."""
    config = settled.config
    return AdapterRequest(
        method=settled.method.name,
        rank=rank,
        alpha=config.alpha,
        dropout=config.dropout,
        target_modules=config.target_modules,
        virtual_tokens=settled.method.virtual_tokens,
    )


def links_of(settled: ResolvedConfig, size: int, *, evaluates: bool, certified: bool = True) -> MessageBits:
    """What updates of a run take, for an adapter of `size` parameters.

    Args:
        certified: whether clients prove who they are to each other, as over a network.

    Raises:
        ConfigError: no masked sum can carry it.
    """
    return composition.links_of(settled.codec.bits, settled.config, size, evaluates=evaluates, certified=certified)
