"""Prepare for a run: get consent, fetch its base, resolve it, and state what this node can do. Loads torch."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from functools import partial

from client.consent import Consents, Proposal, agree, consent_digest
from client.forgotten import Forgotten
from client.settings import (
    NodeSettings,
    check_device,
    check_trainer,
    default_state_directory,
    identity_of,
    memory_folder,
)
from client.task import OfferedRun, TaskRunner, declining_runner, participant_runner, shown
from plait.adapters.methods import METHODS
from plait.composition import client_way_of
from plait.config import RunConfig, Scalar, config_from_table
from plait.data import Dataset, RecordKind, histogram
from plait.errors import BaseMismatchError, ConfigError, DiskFullError, PlaitError, PolicyError
from plait.plugins import admit
from plait.policy import Policy
from plait.privacy.client import SpentJournal
from plait.rounds.client_pipeline import ClientContext
from plait.rounds.data_journal import ClientSecret, DataJournal
from plait.rounds.memory import ClientStore, DiskMemory
from plait.rounds.participant import Participant
from plait.run import Run, blueprint_of, resolve
from plait.settle import ResolvedConfig, settle
from plait.system import machine
from plait.training.bases import LocatedBase, base_at_hand, is_known_to_all, locate_base
from plait.training.device import gpus, limit_memory, one_base_over
from plait.training.fused.kernels import native_library
from plait.training.local_model import OwnTrainer, PeftLocalModel
from plait.training.resident import ResidentBase
from plait.trust.keys import NodeIdentity
from plait.v1 import federation_pb2 as pb
from plait.wire.welcome import config_from_welcome

_AGREED = {
    "before": "you agreed to this configuration before",
    "yes": "agreed to with --yes",
    "asked": "agreed to",
    "policy": "agreed: within this client's policy, and there is no terminal to ask on",
}


def node_run_config(run_config: Mapping[str, Scalar], settings: NodeSettings) -> dict[str, Scalar]:
    """The run configuration on this node: its operator chooses everything that concerns the machine."""
    check_trainer(str(run_config.get("trainer", "")), settings.trainer)
    # In the settings of a run a list of devices is one of simulated clients; this node's shares one base.
    device = settings.device.partition(",")[0].strip()
    own: dict[str, Scalar] = {"device": device, "dtype": settings.dtype, "threads": settings.threads}
    if base := settings.base_for(str(run_config.get("base", ""))):
        own |= {"base": base}
    return dict(run_config) | own


def check_machine(settings: NodeSettings, *, progress: Callable[[str], None]) -> None:
    """Check that the device and the bases that the operator named are available before the server waits."""
    one_base_over(settings.device, settings.dtype)
    for base in settings.bases.values() or [settings.base]:
        if base:
            locate_base(base, progress=progress)


def agreed(
    run: OfferedRun,
    settings: NodeSettings,
    *,
    progress: Callable[[str], None],
    ask: Callable[[], bool] | None = None,
    spent: float = 0.0,
) -> tuple[ResolvedConfig, LocatedBase, Policy]:
    """Get consent to the run and then find its base, which may take minutes if it must be fetched.

    Gives the run as settled for this node, the base, and the policy that then holds.
    """
    settled, policy = _consented(run, settings, progress=progress, ask=ask, spent=spent)
    config, own_base = settled.config, settings.base_for(str(run.config.get("base", "")))
    try:
        located = locate_base(config.base, progress=progress, check_size=policy.check_download)
    except ConfigError as error:
        hint = "" if own_base else "; if it has another name here, give --base DIRECTORY"
        raise ConfigError(f"{error}{hint}") from error
    found = bytes.fromhex(located.reference.fingerprint)
    if run.base_fingerprint and found != run.base_fingerprint:
        raise BaseMismatchError(
            f"base '{config.base}' is {found.hex()[:16]} here, expected {run.base_fingerprint.hex()[:16]} as at the "
            f"server; give --base the run's exact model: weights, config and tokenizer"
        )
    return settled, located, policy


class KeptBase:
    """The base of the newest run, kept in memory for the next one if that has the same."""

    def __init__(self) -> None:
        self._base: ResidentBase | None = None

    def of(self, run: Run, devices: str = "") -> ResidentBase:
        """The run's base; takes the place of the one before if that is another."""
        found = run.load_base(devices)
        if self._base is None or self._base.identity != found.identity:
            if self._base is not None:
                found.adopt(self._base)
            self._base = found
        return self._base


@dataclass(eq=False)
class OwnClient:
    """A client of one run, ready to work; reads no base before the first task.

    `identity`, by which other clients know it, is None without a kit; the journal is that of its data, over all runs.
    `group` is the column of its data that names whom a record belongs to; by default the run's, if it is there.
    """

    run: Run
    dataset: Dataset
    _: KW_ONLY
    name: str
    policy: Policy
    max_rank: int = 0
    trainer: str = ""
    sign: Callable[[bytes], bytes] | None = None
    identity: Callable[[], NodeIdentity] | None = None
    journal: DataJournal | None = None
    kept: KeptBase | None = None
    devices: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        config, dataset = self.run.config, self.dataset
        check_trainer(config.trainer, self.trainer)
        check_device(self.devices, self.trainer)
        # Problems that only the base reveals are reported before a round waits for this node.
        self.terms = self.run.terms(self.name, max_rank=self.max_rank, policy=self.policy)
        self.model = PeftLocalModel(
            (self.kept or KeptBase()).of(self.run, self.devices),
            self.name,
            dataset.records,
            held_out=dataset.held_out,
            kind=dataset.kind,
            histogram=_histogram(dataset, config.label_names),
            own_trainer=_own_trainer(self.trainer) if self.trainer else None,
            group=_group(dataset, self.group, config),
        )

    def participant(self, memory: ClientStore) -> Participant:
        """The participant of the run."""
        speaker = ClientContext(
            self.name, memory, sign=self.sign, terms=self.terms, identity=self.identity, journal=self.journal
        )
        return Participant(
            self.name,
            self.model,
            memory,
            max_rank=self.max_rank,
            max_task_bytes=self.policy.max_task_bytes,
            terms=self.terms,
            way=client_way_of(self.run.config, speaker),
        )


def _group(dataset: Dataset, own: str, config: RunConfig) -> str:
    """The column of a client's groups, the operator's choice or the run's; empty without."""
    if own:
        dataset.check_column(own, "group")
    elif config.group in dataset.column_names:
        return config.group
    elif config.private_group:
        raise PolicyError(
            f"the run protects the records of each '{shown(config.group)}' together, and this client's data have no "
            f"column of that name; give --group COLUMN with the one that names whom a record belongs to"
        )
    return own


def _own_trainer(where: str) -> OwnTrainer:
    # It brings datasets, with pandas and pyarrow, which no other client needs.
    from plait.training.bridge import load_own_trainer

    return load_own_trainer(where)


def _histogram(dataset: Dataset, labels: Collection[str]) -> dict[str, int]:
    """Number of records with each label of the run; nothing else about a node's own data may leave it."""
    if dataset.kind is not RecordKind.LABEL:
        return {}
    return {name: count for name, count in histogram(dataset.records, dataset).items() if name in labels}


def open_runner(
    run: OfferedRun,
    settings: NodeSettings,
    dataset: Dataset,
    *,
    progress: Callable[[str], None],
    ask: Callable[[], bool] | None = None,
    kept: KeptBase | None = None,
) -> TaskRunner:
    """Agree to the run, and prepare to work for it with own data; `ask` is None without a terminal."""
    kit = settings.kit
    authority, place = (kit.tls.authority, kit.directory) if kit else (b"", None)
    home = default_state_directory()
    journal = DataJournal.of(settings.state, authority=authority, data=dataset.fingerprint, kit=place, home=home)
    memory = DiskMemory(memory_folder(settings.state, run.run_id, settings.name))
    # The journal stays that of all records, whose budget is spent.
    left = Forgotten.of(settings.state, settings.name).without(dataset)
    if count := len(dataset.records) - len(left.records):
        progress(f"{count:,} of {len(dataset.records):,} records belong to groups to forget: they are left out")
    known = ClientSecret.known(memory)
    spent = SpentJournal(journal, known.account if known else "").earlier()
    settled, located, policy = agreed(run, settings, progress=progress, ask=ask, spent=spent)
    resolved = resolve(settled, located)
    client = OwnClient(
        resolved,
        left,
        name=settings.name,
        policy=policy,
        max_rank=settings.max_rank,
        trainer=settings.trainer,
        sign=kit.node_key.sign if kit else None,
        identity=partial(identity_of, kit) if kit else None,
        journal=journal,
        kept=kept,
        devices=settings.device,
        group=settings.group,
    )
    if (column := resolved.config.group) and not client.model.group:
        progress(
            f"the run's records belong to groups by column '{shown(column)}', which this client's data do not have: "
            "each record is a group by itself; give --group COLUMN if another column names whom a record belongs to"
        )
    participant, base = client.participant(memory), client.model.base
    if base.compute.device.type == "cpu":
        native_library(progress)
    devices = _limited(base, settings.max_memory_bytes)
    return participant_runner(
        participant,
        ready=pb.Ready(
            base_fingerprint=resolved.base_fingerprint,
            methods=sorted(METHODS),
            memory_bytes=sum(devices.values()),
            device=", ".join([*devices, base.compute.dtype_name]),
        ),
        refusal=lambda: participant.refusal,
    )


def or_decline(run: OfferedRun, name: str, opening: Callable[[], TaskRunner]) -> TaskRunner:
    """The runner that is opened; one that declines if policy or operator do, or a standing server's run cannot be."""
    try:
        return opening()
    except PlaitError as error:
        if isinstance(error, DiskFullError) or not (run.stays or isinstance(error, PolicyError)):
            raise
        return declining_runner(run, name, error)


def _consented(
    run: OfferedRun,
    settings: NodeSettings,
    *,
    progress: Callable[[str], None],
    ask: Callable[[], bool] | None,
    spent: float,
) -> tuple[ResolvedConfig, Policy]:
    """Ask the operator about a run that the policy allows: once, or each time if clients do not trust its server."""
    admit(*settings.allow_plugins, settings.trainer)
    offered, policy = config_from_welcome(run.config), settings.policy
    consents = Consents.of(settings.state, settings.name)
    authority = settings.kit.tls.authority if settings.kit else b""
    digest, name = consent_digest(run.config, run.base_fingerprint, authority), f"{run.run_id:016x}"
    each_run = offered.secure_aggregation
    is_new = each_run or not consents.has(digest)
    # The operator sees the plan before it counts as agreed to, or has seen the same.
    if consents.was_asked(digest) or (ask is not None and not settings.consents and is_new):
        policy = policy.following(offered)
    table = node_run_config(offered.to_table(), settings)
    settled = settle(config_from_table(table, where="run configuration"))
    if not settings.base_for(offered.base) and not is_known_to_all(settled.config.base):
        raise ConfigError(
            f"base of the run is '{shown(settled.config.base)}', a directory on the server or unknown to plait; give "
            f"--base DIRECTORY with that model"
        )
    policy.check_run(offered)
    policy.check_time(datetime.now())
    if is_new and name not in consents.runs(digest):
        size, limits = _parameters(settled), settings.policy
        for line in Proposal(
            str(settings.server), offered, run.base_fingerprint, settings.data, limits, size, spent
        ).lines:
            progress(line)
    how = agree(
        digest,
        name,
        consents,
        most_runs=settings.policy.max_rounds // offered.rounds,
        most_a_week=settings.policy.max_runs_per_week,
        each_run=each_run,
        yes=settings.consents,
        by_policy=settings.policy.consent == "policy",
        ask=ask,
    )
    progress(_AGREED[how])
    return settled, policy


def _parameters(settled: ResolvedConfig) -> int | None:
    here = base_at_hand(settled.config.base)
    return blueprint_of(settled, here, weights=False).spec.layout.size if here else None


def _limited(base: ResidentBase, limit_bytes: int) -> dict[str, int]:
    """The memory of each of a base's devices, by name, of which it uses no more than the limit; 0 for all."""
    base.memory_limit_bytes = limit_bytes
    devices: dict[str, int] = {}
    for device in dict.fromkeys(base.devices):
        limit_memory(device, limit_bytes)
        named, memory_bytes = _device(str(device))
        devices[named] = min(memory_bytes, limit_bytes or memory_bytes)
    return devices


def _device(name: str) -> tuple[str, int]:
    if not name.startswith("cuda"):
        return name, machine.memory_bytes()
    index = int(name.partition(":")[2] or 0)
    model, memory = gpus()[index]
    return f"cuda:{index} {model}", memory
