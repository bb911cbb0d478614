"""What a client's operator is told of a run's differential privacy."""

from __future__ import annotations

from plait.proposed import Proposed, Words
from plait.traits import Trait


def proposes(run: Proposed) -> Words:
    """What is promised, by whom, and what earlier runs have spent."""
    said = vars(run.config)
    unit = said.get("dp", "off")
    is_masked = run.config.fewest_together(run.config.cohort_size) > 0
    seen = ()
    if unit == "record" and not is_masked:
        seen = ("the run is not masked: the server sees this client's own updates, with their noise",)
    promised = () if unit == "off" else (_promised(run, is_masked=is_masked),)
    is_noised = unit == "record" or (unit == "client" and is_masked)
    return Words(promised=(*promised, *_spent(run, is_private=unit != "off")), is_noised=is_noised, seen=seen)


def _promised(run: Proposed, *, is_masked: bool) -> str:
    said = vars(run.config)
    epsilon, delta = said["dp_epsilon"], said["dp_delta"]
    noise = f"epsilon {epsilon:g}" if epsilon else f"noise of {said['dp_noise_multiplier']:g} times the clip norm"
    if said["dp"] == "record":
        client = "each client" if run.is_region else "this client"
        return (
            f"{client} adds noise to its own training, so that no single sequence shows in what it sends: "
            f"{noise} at delta {delta:g}, kept by {client}'s own account"
        )
    if is_masked:
        return (
            f"this client adds its share of the noise under its masks, so that no sum shows what its data change, "
            f"not even to the server: {noise} at delta {delta:g}, if the others add theirs"
        )
    who, adds, itself = "the server promises", "it adds", "itself"
    if Trait.ONE_SERVER in run.config.gone:
        who, adds, itself = "servers promise", "they add", "themselves"
    return (
        f"{who} client-level differential privacy towards everyone but {itself}: {noise} at delta "
        f"{delta:g}; this client cannot check that {adds} the noise"
    )


def _spent(run: Proposed, *, is_private: bool) -> tuple[str, ...]:
    if not run.spent and (not is_private or run.is_region):
        return ()
    most = run.policy.most_epsilon
    allowed = f"at most {most:g} over all runs (max-total-epsilon)" if most else "max-total-epsilon sets no limit"
    return (f"earlier runs on these data in this federation have spent epsilon {run.spent:.4g}: {allowed}",)
