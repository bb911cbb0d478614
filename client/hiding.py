"""What differential privacy and masks promise of a run that a server proposes, in words for the client's operator."""

from __future__ import annotations

from dataclasses import dataclass

from plait.config import RunConfig
from plait.policy import fewest
from plait.secagg.grid import bits_for
from plait.secagg.run import masked_of, noise_of
from plait.settle import settle


@dataclass(frozen=True, kw_only=True)
class ConsentText:
    """What one of them says of a run.

    Attributes:
        promised: what is promised to this client, and what its data have paid.
        is_noised: whether clients add noise to all that they say of their data.
        under_masks: whether it leaves them under masks.
        seen: what the server learns of an update; empty where it changes nothing about that.
        bits: for each parameter of an update; None for those of the run's wire.
    """

    promised: tuple[str, ...] = ()
    is_noised: bool = False
    under_masks: bool = False
    seen: tuple[str, ...] = ()
    bits: float | None = None


def of_privacy(config: RunConfig, *, spent: float, most: float) -> ConsentText:
    """What is promised, by whom, and what earlier runs have spent."""
    unit = config.dp
    is_masked = config.secure_aggregation
    seen = ()
    if unit == "record" and not is_masked:
        seen = ("the run is not masked: the server sees this client's own updates, with their noise",)
    promised = () if unit == "off" else (_promised(config, is_masked=is_masked),)
    is_noised = unit == "record" or (unit == "client" and is_masked)
    return ConsentText(
        promised=(*promised, *_spent(spent, most, is_private=unit != "off")), is_noised=is_noised, seen=seen
    )


def _promised(config: RunConfig, *, is_masked: bool) -> str:
    budget = f"epsilon {config.dp_epsilon:g} at delta {config.dp_delta:g}"
    if config.dp == "record":
        return (
            f"this client adds noise to its own training, so that no single sequence shows in what it sends: "
            f"{budget}, kept by this client's own account"
        )
    if is_masked:
        return (
            f"this client adds its share of the noise under its masks, so that no sum shows what its data change, "
            f"not even to the server: {budget}, if the others add theirs"
        )
    return (
        f"the server promises client-level differential privacy towards everyone but itself: {budget}; this client "
        "cannot check that it adds the noise"
    )


def _spent(spent: float, most: float, *, is_private: bool) -> tuple[str, ...]:
    if not spent and not is_private:
        return ()
    allowed = f"at most {most:g} over all runs (max-total-epsilon)" if most else "max-total-epsilon sets no limit"
    return (f"earlier runs on these data in this federation have spent epsilon {spent:.4g}: {allowed}",)


def of_masks(config: RunConfig, parameters: int | None) -> ConsentText:
    """What the server learns, and how many bits a parameter takes."""
    if not config.secure_aggregation:
        return ConsentText()
    sums = (
        f"the run is masked (secure aggregation): the server learns sums over {fewest(config)} or more clients, and "
        f"no single client's updates or losses"
    )
    unhidden = ("masks add no noise: they do not hide what the sum, and so the adapter, tells of a text",)
    if config.cohort_size < config.clients:
        drawn = (
            "each round has other clients, so sums of many rounds together show which way a single client's data pull"
        )
        unhidden = (*unhidden, drawn)
    is_noised = noise_of(config) is not None
    return ConsentText(
        under_masks=True, seen=(sums,) if is_noised else (sums, *unhidden), bits=_bits(config, parameters)
    )


def _bits(config: RunConfig, parameters: int | None) -> float:
    privacy, clients = masked_of(settle(config).config).privacy, config.cohort_size
    if privacy is None or parameters is None:
        return bits_for(clients)
    return privacy.shares(parameters).bits(clients, parameters)
