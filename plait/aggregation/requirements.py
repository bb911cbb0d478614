"""What a rule requires of a run, to be checked before its first round: the kind of adapter, ranks, cohort, secrecy.

Each refusal says which two things clash and why. Server optimizers have a check of their own
(`server_optimizer.check_composition`). Knows no configuration: the caller says which values its keys have come to.
"""

from __future__ import annotations

from collections.abc import Collection

from plait.aggregation.geometry import Geometry
from plait.aggregation.rule import Rule, Subject
from plait.errors import ConfigError


def check_rule(
    rule: Rule, server: Geometry, *, cohort: Collection[Geometry] = (), clients: int | None = None, secret: bool = False
) -> None:
    """Refuse a rule where it cannot do what it says.

    Args:
        rule: the rule.
        server: geometry of the master.
        cohort: geometries that clients may have; empty where all have the master's.
        clients: how many updates a round wants; None where that is not known.
        secret: whether the server is to see no update of a single client, only their weighted sum.

    Raises:
        ConfigError: with the reason.
    """
    _check_subject(rule, server)
    for geometry in cohort:
        _check_ranks(rule, server, geometry)
    if clients is not None and clients < rule.least_clients:
        raise ConfigError(
            f"rule is '{rule.name}' with {clients} clients in a round, expected at least {rule.least_clients}: "
            "with fewer it can stand no bad client"
        )
    if secret:
        _check_secrecy(rule, server, cohort)


def _check_subject(rule: Rule, server: Geometry) -> None:
    if rule.subject is Subject.SQUARES and server.pairs:
        raise ConfigError(
            f"rule is '{rule.name}' but '{server.pairs[0].module}' trains A and B, expected an adapter of the method "
            "LoRA-XS: only square matrices between fixed factors have an exact mean"
        )
    if rule.subject is Subject.FACTORS and not server.pairs:
        raise ConfigError(
            f"rule is '{rule.name}' but the adapter has no factors A and B, expected a method that trains them, or "
            "rule 'fedavg' or 'fedsb'"
        )


def _check_ranks(rule: Rule, server: Geometry, client: Geometry) -> None:
    if client.pairs == server.pairs:
        return
    for mine in client.pairs:
        ours = server.by_module.get(mine.module)
        if ours is None or (mine.rank, mine.scale) == (ours.rank, ours.scale):
            continue
        if not rule.mixed_ranks:
            raise ConfigError(
                f"rule is '{rule.name}' with clients of rank {mine.rank} (scale {mine.scale:g}) and a server of rank "
                f"{ours.rank} (scale {ours.scale:g}) on '{mine.module}', expected one rank or a rule that mixes ranks: "
                "it averages factors as they are"
            )
        if mine.rank > ours.rank and not rule.higher_ranks:
            raise ConfigError(
                f"rule is '{rule.name}' with clients of rank {mine.rank} on '{mine.module}', expected at most the "
                f"server's {ours.rank}: it has no room for further slices"
            )


def _check_secrecy(rule: Rule, server: Geometry, cohort: Collection[Geometry]) -> None:
    if not rule.linear:
        raise ConfigError(
            f"rule is '{rule.name}' under secure aggregation, expected a linear rule: it needs every client's own "
            "update, and the server is to see no more than their sum"
        )
    if any(geometry.layout.digest != server.layout.digest for geometry in cohort):
        raise ConfigError(
            f"rule is '{rule.name}' with mixed ranks under secure aggregation, expected one rank: "
            "masked updates add up only where all have the same shape"
        )
