"""What an operator's policy says of masked sums."""

from __future__ import annotations

from plait.config import RunConfig
from plait.features.secagg.graph import fewest_in_sum
from plait.features.secagg.run import is_noised
from plait.policy import Policy


def check(policy: Policy, config: RunConfig) -> None:
    """Refuse a run whose server would see this client's own update, if it may not, or sums of too few clients.

    Raises:
        PolicyError: with the key, what the run asks for, and how to allow it.
    """
    is_masked = vars(config).get("secure_aggregation", False)
    if policy.require_secure_aggregation and not is_masked:
        raise policy.refusal(
            "require-secure-aggregation",
            "the run has no secure aggregation, so its server would see this client's own update",
            "masked runs alone",
            "leave --require-secure-aggregation out and set it to false",
        )
    if is_masked:
        asked = "the run asks for masked sums of as few clients as"
        policy.at_least("min-masked-clients", asked, fewest(config))


def fewest(config: RunConfig) -> int:
    """The fewest clients in a sum of a run."""
    # With noise, clients do not evaluate.
    evaluators = config.eval_clients if config.evaluates else 0
    return fewest_in_sum(config.cohort_size, evaluators, noised=is_noised(config))
