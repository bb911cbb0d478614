"""What an operator's policy says of a run's differential privacy."""

from __future__ import annotations

import math

from plait.config import RunConfig
from plait.features.privacy.accountant import epsilon_at
from plait.policy import Policy


def check(policy: Policy, config: RunConfig) -> None:
    """Refuse a run whose guarantee is not what the policy asks for.

    Raises:
        PolicyError: with the key, what the run promises, and how to allow it.
    """
    limit = policy.most_epsilon_of_run
    if not limit:
        return
    said = vars(config)
    unit, epsilon, delta = said.get("dp", "off"), said.get("dp_epsilon", 0.0), said.get("dp_delta", 0.0)
    key = "dp-max-epsilon" if policy.dp_max_epsilon else "max-total-epsilon"
    most = f"epsilon of at most {limit:g}"
    if unit == "off":
        raise policy.refusal(key, "the run has no differential privacy", most, "set it to 0")
    if policy.dp_unit == "record" and unit != "record":
        how = (
            "under which clients are hidden, not records"
            if config.fewest_together(config.cohort_size)
            else "so that the server is to add the noise"
        )
        raise policy.refusal("dp-unit", f"dp of the run is '{unit}', {how}", "dp record", "set it to 'any'")
    if not 0 < delta <= policy.dp_max_delta:
        allowed = f"at most {policy.dp_max_delta:g}"
        raise policy.refusal("dp-max-delta", f"the run has delta {delta:g}", allowed, f"set it to {delta:g} or more")
    if not epsilon and unit == "record":
        # It follows from the number of this client's records, too (see `record_accountant`).
        return
    epsilon = epsilon or epsilon_at(delta, math.sqrt(config.rounds) / said["dp_noise_multiplier"])
    if epsilon > limit:
        asked = f"the run may spend epsilon {epsilon:.4g} at delta {delta:g}"
        raise policy.refusal(key, asked, most, f"set it to {math.ceil(100 * epsilon) / 100:g} or more")
