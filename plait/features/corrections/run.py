"""A correction in a run: the server's step that it needs, what tasks say of it, and its hooks at the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from plait.choice import parse_choice
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.features.corrections.correction import Correction, FedDyn, FedProx, Scaffold, correction_named
from plait.rounds.client_way import ClientWay, Speaker

if TYPE_CHECKING:
    from plait.features.corrections.settings import Corrections


def settles(config: RunConfig) -> Mapping[str, object]:
    """The server's step of FedDyn.

    Raises:
        ConfigError: another is given.
    """
    if not isinstance(_correction(config), FedDyn):
        return {}
    name, _ = parse_choice(config.server_optimizer)
    if name == "none":
        return {"server_optimizer": f"{FedDyn.optimizer}:share={config.cohort_size / config.clients:g}"}
    if name != FedDyn.optimizer:
        raise ConfigError(
            f"correction is '{cast('Corrections', config).correction}' and server-optimizer is "
            f"'{config.server_optimizer}', expected server-optimizer auto or {FedDyn.optimizer}: the server adds what "
            "the clients' regularisers hold back"
        )
    return {}


def tasks(config: RunConfig) -> Mapping[str, object]:
    """The settings of every task."""
    match _correction(config):
        case FedDyn(alpha=alpha):
            # The quadratic term of its regulariser is FedProx's; the hook has the linear one.
            return {"feddyn": alpha, "proximal": alpha}
        case FedProx(mu=mu):
            return {"proximal": mu}
        case Scaffold():
            return {"scaffold": True}
        case None:
            return {}


def client_way(way: ClientWay, _config: RunConfig, _speaker: Speaker) -> ClientWay:
    """The way of a client whose steps are corrected."""
    return corrected(way)


def corrected(way: ClientWay) -> ClientWay:
    """The same with the hooks of all corrections; the task says which applies."""
    # Not imported by the server.
    from plait.features.corrections import drift, feddyn

    return replace(way, outer=(*way.outer, drift.Scaffold(), feddyn.FedDyn()))


def _correction(config: RunConfig) -> Correction | None:
    return correction_named(cast("Corrections", config).correction)
