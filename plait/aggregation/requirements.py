"""What a rule requires of a run, checked before its first round: the kind of adapter, ranks, size of the cohort.

Each refusal says which two things clash and why. Server optimizers have a check of their own
(`server_optimizer.check_composition`). Knows no configuration.
"""

from __future__ import annotations

from collections.abc import Collection

from plait.aggregation.geometry import Geometry
from plait.aggregation.rule import Rule
from plait.errors import ConfigError


def check_rule(rule: Rule, server: Geometry, *, cohort: Collection[Geometry] = (), clients: int | None = None) -> None:
    """Refuse a rule where it cannot do what it says.

    Args:
        rule: the rule.
        server: geometry of the master.
        cohort: geometries that clients may have; empty where all have the master's.
        clients: how many updates a round wants; None where that is not known.

    Raises:
        ConfigError: with the reason.
    """
    rule.check_adapter(server)
    for geometry in cohort:
        _check_ranks(rule, server, geometry)
    if clients is not None and clients < rule.least_clients:
        raise ConfigError(
            f"rule is '{rule.name}' with {clients} clients in a round, expected at least {rule.least_clients}: "
            "with fewer it can stand no bad client"
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
