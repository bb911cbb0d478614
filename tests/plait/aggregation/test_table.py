from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import Subject
from plait.aggregation import RULES, check_rule
from plait.aggregation.means import square_geometry
from plait.errors import ConfigError, PeerError

RANK = 2


def at_rank(lab, rank):
    return lab.geometry(rank=rank, alpha=4.0)


@pytest.mark.parametrize("name", RULES)
def test_factors_and_square_matrices_are_told_apart(lab, name):
    factors = at_rank(lab, RANK)
    squares = square_geometry(factors)
    rule = RULES[name]
    suits = {Subject.SQUARES: (False, True), Subject.FACTORS: (True, False), Subject.TENSORS: (True, True)}
    for geometry, fits in zip((factors, squares), suits[rule.subject], strict=True):
        if fits:
            check_rule(rule, geometry)
        else:
            with pytest.raises(ConfigError, match=f"rule is '{name}' but"):
                check_rule(rule, geometry)


@pytest.mark.parametrize("name", [name for name in RULES if name != "fedsb"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_rank_is_refused_at_configuration_just_where_its_update_would_be(lab, name, rank):
    rule, server, client = RULES[name], at_rank(lab, RANK), at_rank(lab, rank)
    generator = np.random.default_rng(0)
    context = replace(lab.context(server, generator), cohort=(server, client))
    (update,) = lab.contributions(rule, context, generator, weights=[1], geometries=[client])
    takes = rank == RANK or (rule.mixed_ranks and (rank < RANK or rule.higher_ranks))
    if takes:
        check_rule(rule, server, cohort=(client,))
        rule.begin(context).add(update)
        return
    with pytest.raises(ConfigError, match=rf"rule is '{name}' with clients of rank {rank}"):
        check_rule(rule, server, cohort=(server, client))
    with pytest.raises(PeerError, match=rf"is {rank}, expected"):
        rule.begin(context).add(update)


@pytest.mark.parametrize("name", [name for name in RULES if name != "fedsb"])
def test_one_rank_with_two_scales_is_mixed_too(lab, name):
    server, client = lab.geometry(alpha=4.0), lab.geometry(alpha=8.0)
    if RULES[name].mixed_ranks:
        check_rule(RULES[name], server, cohort=(client,))
    else:
        with pytest.raises(ConfigError, match=r"scale of .* is 4, expected 2"):
            check_rule(RULES[name], server, cohort=(client,))


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.needs_all])
def test_a_robust_rule_wants_a_majority_of_honest_clients(lab, name):
    with pytest.raises(ConfigError, match=f"rule is '{name}' with 2 clients in a round, expected at least 3"):
        check_rule(RULES[name], at_rank(lab, RANK), clients=2)
    check_rule(RULES[name], at_rank(lab, RANK), clients=3)
