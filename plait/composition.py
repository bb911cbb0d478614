"""What a run is made of, by its settings: the one place that joins the core with what a run asks for besides.

A run that asks for nothing besides has a cohort, a plain fold, updates in the open and no costs. Each branch imports
what it needs, so that no run loads what it does not use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from plait.config import RunConfig
from plait.ledger.events import Event
from plait.rounds.client_pipeline import ClientContext, ClientPipeline, PlainSender
from plait.rounds.coordinator import Host, Way
from plait.rounds.run_plan import MessageBits, RunContext, RunPlan
from plait.wire.settings import Settings

Screen = Callable[[Event], Event | None]
"""What of an event is recorded; None for nothing."""


def settled_by_parts(config: RunConfig) -> RunConfig:
    """The settings with those that asynchronous rounds and differential privacy fill in."""
    if config.rounds_mode != "sync":
        from plait.rounds.buffer import settled

        config = config.model_copy(update=settled(config))
    if config.dp != "off":
        from plait.privacy.run import settles

        config = config.model_copy(update=settles(config))
    return config


def task_settings(settings: Settings, config: RunConfig) -> Settings:
    """The settings of every task, with what masks and differential privacy need."""
    settings = replace(settings, secure_aggregation=config.secure_aggregation)
    if config.dp == "off":
        return settings
    from plait.privacy.run import tasks

    return tasks(settings, config)


def plan_of(plan: RunPlan, config: RunConfig) -> RunPlan:
    """The plan of the round loop, for rounds that are buffers and steps by speed."""
    if config.rounds_mode != "sync":
        from plait.rounds.buffer import planned

        plan = planned(plan, config)
    if config.step_budget == "speed":
        from plait.rounds.paces import BySpeed

        plan = replace(plan, stepping=BySpeed())
    return plan


def way_of(plan: RunPlan, config: RunConfig, host: Host) -> Way:
    """How a run's updates are gathered and folded, and what its rounds cost."""
    way = Way()
    if config.rounds_mode != "sync":
        from plait.rounds.buffer import buffer_of, with_buffer

        way = with_buffer(way, buffer_of(config))
    if config.dp != "off":
        from plait.privacy.run import way as private

        way = private(way, config, plan, host)
    if config.secure_aggregation:
        from plait.secagg.run import masked_of
        from plait.secagg.run import way as masked

        way = masked(way, masked_of(config), host.vouch or (lambda _claim: False))
    return way


def client_way_of(config: RunConfig, speaker: ClientContext) -> ClientPipeline:
    """How a client's updates and losses leave it, and what they cost its data's budget."""
    way = ClientPipeline(PlainSender(speaker.name, speaker.sign))
    if config.dp != "off":
        from plait.privacy.run import client_way as private

        way = private(way, config, speaker)
    if config.secure_aggregation:
        from plait.secagg.run import client_way as masked
        from plait.secagg.run import masked_of

        way = masked(way, masked_of(config), speaker)
    return way


def links_of(links: MessageBits, config: RunConfig, size: int, *, evaluates: bool, certified: bool) -> MessageBits:
    """What updates take, under masks with the stages of their sums."""
    if not config.secure_aggregation:
        return links
    from plait.secagg.run import links as masked

    return masked(links, config, size, evaluates=evaluates, certified=certified)


def screen_of(config: RunConfig, update_bytes: int) -> Screen | None:
    """What ledgers keep of an event; None for all of it."""
    if config.secure_aggregation:
        from plait.secagg.run import screen as of_sums

        return of_sums()
    if config.dp == "off":
        return None
    from plait.privacy.run import screen

    return screen(config, update_bytes)


def opened(config: RunConfig, opening: RunContext) -> list[Event]:
    """What a run promises and has not recorded, as events; `ConfigError` if it goes on otherwise than it began."""
    promised: list[Event | None] = []
    if config.fleet:
        from plait.rounds.fleet import opens as described

        promised.append(described(config, opening))
    if config.dp != "off":
        from plait.privacy.run import opens as private

        promised.append(private(config, opening))
    return [event for event in promised if event]


def check_here(config: RunConfig, *, simulates: bool) -> None:
    """Refuse what a run cannot do here."""
    if config.rounds_mode != "sync":
        from plait.rounds.buffer import check as check_rounds

        check_rounds(config, simulates=simulates)
    if config.fleet:
        from plait.rounds.fleet import check as check_fleet

        check_fleet(config, simulates=simulates)
