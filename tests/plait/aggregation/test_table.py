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
@pytest.mark.parametrize(("rank", "alpha"), [(1, 4.0), (2, 4.0), (3, 4.0), (2, 8.0)])
def test_a_rank_or_scale_is_refused_at_configuration_just_where_its_update_would_be(lab, name, rank, alpha):
    rule, server, client = RULES[name], at_rank(lab, RANK), lab.geometry(rank=rank, alpha=alpha)
    generator = np.random.default_rng(0)
    context = replace(lab.context(server, generator), cohort=(server, client))
    (update,) = lab.contributions(rule, context, generator, weights=[1], geometries=[client])
    takes = client == server or (rule.mixed_ranks and (rank <= RANK or rule.higher_ranks))
    if takes:
        check_rule(rule, server, cohort=(client,))
        rule.begin(context).add(update)
        return
    of_config, of_update = (rf"rule is '{name}' with clients of rank {rank}", rf"is {rank}, expected")
    if rank == RANK:
        of_config = of_update = r"scale of .* is 4, expected 2"
    with pytest.raises(ConfigError, match=of_config):
        check_rule(rule, server, cohort=(server, client))
    with pytest.raises(PeerError, match=of_update):
        rule.begin(context).add(update)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.needs_all])
def test_a_robust_rule_wants_a_majority_of_honest_clients(lab, name):
    with pytest.raises(ConfigError, match=f"rule is '{name}' with 2 clients in a round, expected at least 3"):
        check_rule(RULES[name], at_rank(lab, RANK), clients=2)
    check_rule(RULES[name], at_rank(lab, RANK), clients=3)
