"""What a run is made of, by its settings: the one place that joins the core with what a run asks for besides.

A run that asks for nothing besides has a cohort, a plain fold, updates in the open and no costs.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from plait.config import RunConfig
from plait.ledger.events import Event
from plait.rounds.client_pipeline import ClientContext, ClientPipeline, PlainSender
from plait.rounds.coordinator import Host, Way
from plait.rounds.run_plan import MessageBits, RunContext, RunPlan
from plait.wire.settings import Settings

Screen = Callable[[Event], Event | None]
"""What of an event is recorded; None for nothing."""


# Imported only by a run that asks for them.
def _buffer():
    from plait.rounds import buffer

    return buffer


def _fleet():
    from plait.rounds import fleet

    return fleet


def _privacy():
    from plait.privacy import run

    return run


def _masks():
    from plait.secagg import rounds

    return rounds


def settled_by_parts(config: RunConfig) -> RunConfig:
    """The settings with those that asynchronous rounds and differential privacy fill in."""
    if config.rounds_mode != "sync":
        config = config.model_copy(update=_buffer().settled(config))
    if config.dp != "off":
        config = config.model_copy(update=_privacy().settles(config))
    return config


def task_settings(settings: Settings, config: RunConfig) -> Settings:
    """The settings of every task, with what masks and differential privacy need."""
    settings = replace(settings, secure_aggregation=config.secure_aggregation)
    return settings if config.dp == "off" else _privacy().tasks(settings, config)


def plan_of(plan: RunPlan, config: RunConfig) -> RunPlan:
    """The plan of the round loop, with metrics, rounds that are buffers, and steps by speed."""
    if config.eval_metrics:
        from plait.rounds.metrics import RunMetrics

        metrics = RunMetrics.of(config.eval_metrics, len(config.label_names), masked=config.secure_aggregation)
        plan = replace(plan, metrics=metrics)
    if config.rounds_mode != "sync":
        plan = _buffer().planned(plan, config)
    if config.step_budget == "speed":
        from plait.rounds.paces import BySpeed, ClientSpeeds

        plan = replace(plan, stepping=BySpeed(), speeds=ClientSpeeds.of)
    return plan


def way_of(plan: RunPlan, config: RunConfig, host: Host) -> Way:
    """How a run's updates are gathered and folded, and what its rounds cost."""
    way = Way()
    if config.rounds_mode != "sync":
        way = _buffer().with_buffer(way, _buffer().buffer_of(config))
    if config.dp != "off":
        way = _privacy().way(way, config, plan, host)
    if config.secure_aggregation:
        from plait.secagg.collector import with_masks

        way = with_masks(way, _masks().masked_of(config), host.vouch or (lambda _name, _key, _proof, _by: False))
    return way


def client_way_of(config: RunConfig, speaker: ClientContext) -> ClientPipeline:
    """How a client's updates and losses leave it, and what they cost its data's budget."""
    way = ClientPipeline(PlainSender(speaker.name, speaker.sign))
    if config.dp != "off":
        way = _privacy().client_way(way, config, speaker)
    if config.secure_aggregation:
        from plait.secagg.masking import UnderMasks

        way = replace(way, sender=UnderMasks(speaker, _masks().masked_of(config)), is_open=False)
    return way


def links_of(bits: float, config: RunConfig, size: int, *, evaluates: bool, certified: bool) -> MessageBits:
    """What updates take, under masks with the stages of their sums."""
    if not config.secure_aggregation:
        return MessageBits(bits)
    return _masks().masked_of(config).link_bits(size, sums=2 if evaluates else 1, certified=certified)


def screen_of(config: RunConfig, update_bytes: int) -> Screen | None:
    """What ledgers keep of an event; None for all of it."""
    if not config.secure_aggregation and config.dp == "off":
        return None
    from plait.ledger import redaction

    if config.secure_aggregation:
        return partial(redaction.screened, kept=redaction.KEPT_MASKED)
    if config.dp == "record":
        return partial(redaction.screened, kept=redaction.KEPT_OF_RECORDS)
    return partial(redaction.screened, update_bytes=update_bytes)


def opened(config: RunConfig, opening: RunContext) -> list[Event]:
    """What a run promises and has not recorded, as events; `ConfigError` if it goes on otherwise than it began."""
    promised = [
        _fleet().opens(config, opening) if config.fleet else None,
        _privacy().opens(config, opening) if config.dp != "off" else None,
    ]
    return [event for event in promised if event]


def check_here(config: RunConfig, *, simulates: bool) -> None:
    """Refuse what a run cannot do here."""
    if config.rounds_mode != "sync":
        _buffer().check(config, simulates=simulates)
    if config.fleet:
        _fleet().check(config, simulates=simulates)
