"""One region of a run, from the resolved run to a participant of the server above: connects parts, decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from plait import machine
from plait.config import RunConfig, to_toml
from plait.errors import ConfigError
from plait.features.trees.events import RegionStarted
from plait.features.trees.region import MAX_TASK_BYTES, Region
from plait.features.trees.region_sum import Adding, RegionSum
from plait.policy import Policy
from plait.rounds.channel import Channel
from plait.rounds.events import Resumed
from plait.rounds.ledger import Ledger, OnEvent
from plait.rounds.recorded_settings import recorded_settings
from plait.rounds.run_directory import RunDirectory
from plait.rounds.spool import Spool
from plait.run import Run
from plait.settle import Settled
from plait.traits import Trait

# Of the time that the server above gives; the rest is for the sum's way up.
_OWN_PART = 0.8


def below(settled: Settled) -> Settled:
    """The same run as the clients of a region see it: its tree without this server's own level, and less time."""
    config = settled.config
    tree = "x".join(map(str, config.levels[1:]))
    own: dict[str, object] = {"tree": tree, "deadline_s": _OWN_PART * config.deadline_s}
    if Trait.SINGLE_UPDATES in config.gone:
        # A client's update that does not count must not take others' out of the sum: its noise covers one client.
        own["quorum"] = 1 / config.clients
    return replace(settled, config=config.model_copy(update=own))


def open_region(
    run: Run,
    name: str,
    channel: Channel,
    path: Path,
    *,
    policy: Policy | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    on_event: OnEvent = lambda _: None,
) -> Region:
    """A region of a run, new or as it was left.

    Args:
        run: as the server above announces it, so its tree begins with the number of regions.
        policy: its operator's; None for no limits.

    Raises:
        ConfigError: the run has no regions, or the directory holds another run.
        PolicyError: the run asks for more than the policy allows.
    """
    if len(run.config.levels) < 2:
        tree = vars(run.config).get("tree", "")
        raise ConfigError(
            f"tree of the run is '{tree}' and '{name}' is a region, expected REGIONSxCLIENTS, such as 10x100"
        )
    terms = run.terms(name, policy=policy)
    settled = below(run.settled)
    directory, ledger = _opened(run, settled, name, path, on_event)
    return Region(
        name=name,
        channel=channel,
        directory=directory,
        ledger=ledger,
        plan=settled.plan,
        ranks=run.ranks,
        base_fingerprint=run.base_fingerprint,
        rule=run.rule,
        optimizer=settled.optimizer,
        terms=terms,
        adder=partial(_adder, settled.config),
        sign=sign,
        max_task_bytes=policy.max_task_bytes if policy else MAX_TASK_BYTES,
    )


def _adder(config: RunConfig, spool: Spool) -> Adding:
    """What adds up a region's updates, which a run with privacy of clients clips."""
    if vars(config).get("dp") != "client":
        return RegionSum(spool)
    from plait.features.trees.clipped_adder import clipped_adder

    return clipped_adder(config, spool)


def _opened(run: Run, settled: Settled, name: str, path: Path, on_event: OnEvent) -> tuple[RunDirectory, Ledger]:
    """The region's directory and its ledger, new or as they were left."""
    directory, screen = RunDirectory(path), replace(run, settled=settled).screen
    if directory.has_started:
        if recorded_settings(directory).model_copy(update={"out": settled.config.out}) != settled.config:
            raise ConfigError(f"'{path}' holds a region of another run (see its config.toml); give another --out")
        ledger = Ledger(directory.ledger, on_event=on_event, screen=screen)
        ledger.append(Resumed(round=0))
    else:
        directory = RunDirectory.create(path, config_toml=to_toml(settled.config))
        ledger = Ledger(directory.ledger, on_event=on_event, screen=screen)
        ledger.append(
            RegionStarted(
                name=name,
                config=settled.config.to_table(),
                base=run.base_recorded,
                adapter=run.adapter_recorded,
                versions=machine.versions(),
            )
        )
    return directory, ledger
