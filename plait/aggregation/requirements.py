"""What a rule requires of a run, checked before its first round: method and kind of adapter, ranks, size of the cohort.

Each refusal says which two settings are incompatible and why. Server optimizers have a separate check
(`server_optimizer.check_composition`). Knows no configuration.
"""

from __future__ import annotations

from collections.abc import Collection

from plait.adapters import Subject
from plait.adapters.methods import METHODS, Method
from plait.aggregation.geometry import Geometry
from plait.aggregation.rule import Exactness, Rule
from plait.aggregation.table import RULES
from plait.errors import ConfigError


def check_rule(rule: Rule, server: Geometry, *, cohort: Collection[Geometry] = (), clients: int | None = None) -> None:
    """Refuse a rule that does not work with this adapter and cohort.

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
                "it averages factors directly"
            )
        if mine.rank > ours.rank and not rule.higher_ranks:
            raise ConfigError(
                f"rule is '{rule.name}' with clients of rank {mine.rank} on '{mine.module}', expected at most the "
                f"server's {ours.rank}: it cannot hold further slices"
            )


def check_method_and_rule(method: Method, rule: Rule, *, mixed_ranks: bool) -> None:
    """Refuse a rule that does not work with this method's adapters.

    Raises:
        ConfigError: with the reason and the nearest alternative.
    """
    if rule.subject not in (Subject.TENSORS, method.subject):
        having = ", ".join(f"'{name}'" for name, other in METHODS.items() if other.subject is rule.subject)
        nearest = next(other.name for other in RULES.values() if other.subject is method.subject)
        raise ConfigError(
            f"rule is '{rule.name}' and method '{method.name}', which trains {method.subject}, expected a method that "
            f"trains {rule.subject}: {having}; nearest: rule '{nearest}'"
        )
    if rule.moves_base and method.quantised:
        plain = next(other.name for other in METHODS.values() if other.subject is method.subject)
        still = next(other.name for other in RULES.values() if other.exactness is Exactness.UP_TO_TRUNCATION)
        raise ConfigError(
            f"rule is '{rule.name}', which moves the base, and method '{method.name}' holds it in four bits, which "
            f"would round every move; nearest: method '{plain}', or rule '{still}'"
        )
    if mixed_ranks and method.subject is not Subject.FACTORS:
        having = ", ".join(f"'{name}'" for name, other in METHODS.items() if other.subject is Subject.FACTORS)
        raise ConfigError(
            f"client-ranks are given and method is '{method.name}', expected one of {having}: other adapters cannot be "
            "cut to a lower rank"
        )


def rules_for(method: Method) -> tuple[str, ...]:
    """Names of plait's own rules that may combine this method's adapters."""
    names: list[str] = []
    for name, rule in RULES.items():
        try:
            check_method_and_rule(method, rule, mixed_ranks=False)
        except ConfigError:
            continue
        names.append(name)
    return tuple(names)
