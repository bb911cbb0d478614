"""From a run's events to the figures that a tracker draws, by name and round.

``held_out/…`` are means over all clients, ``clients/NAME/…`` are a client's own, ``round/…`` are of the aggregation and
``bytes/…`` of all traffic so far. No name is the beginning of another one's path, so that they can be files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plait.rounds.events import Evaluated, Event, MeanScore, RoundFinished, UpdateReceived
from plait.rounds.run_now import RunNow

_OF_UPDATE = ("train_loss", "first_loss", "reward", "tokens", "train_s", "uplink_bytes", "distortion")
_OF_SCORE = ("loss", "loss_margin", "change", "change_margin", "accuracy", "reward_margin")


@dataclass
class Series:
    """The figures of one run, event by event."""

    _now: RunNow = field(default_factory=RunNow, init=False)
    _newest: int = field(default=0, init=False)

    def of(self, event: Event) -> tuple[int, Mapping[str, float]] | None:
        """The round and the figures of an event; None if it has none.

        Rounds never decrease: what an asynchronous run says of an earlier one, as its evaluation, is at the newest.
        """
        found = self._of(event)
        if found is None:
            return None
        self._newest = max(self._newest, found[0])
        return self._newest, found[1]

    def _of(self, event: Event) -> tuple[int, Mapping[str, float]] | None:
        self._now.take(event)
        match event:
            case UpdateReceived():
                values = {name: getattr(event, name) for name in _OF_UPDATE}
                known = _known({f"clients/{event.client}/{name}": each for name, each in values.items()})
                return event.counted_in, known
            case RoundFinished():
                return event.round, _known(_of_round(event))
            case Evaluated():
                values = _of_mean("held_out", "", event)
                if event.own is not None:
                    values |= _of_mean("held_out_personalized", "personalized_", event.own)
                sent = self._now.sent
                bytes_ = {"bytes/uplink": sent.uplink_bytes, "bytes/downlink": sent.downlink_bytes}
                return event.round, _known({**values, **bytes_})
            case _ if event.logged:
                return vars(event)["round"], _known(event.logged)
            case _:
                pass
        return None


def _of_mean(group: str, prefix: str, mean: MeanScore) -> dict[str, float | None]:
    values: dict[str, float | None] = {f"{group}/{name}": getattr(mean, name) for name in _OF_SCORE}
    for client, score in mean.by_client.items():
        values |= {f"clients/{client}/{prefix}{name}": getattr(score, name) for name in _OF_SCORE}
    return values


def _of_round(event: RoundFinished) -> dict[str, float | None]:
    values: dict[str, float | None] = {
        "round/received": event.received,
        "round/refused": event.refused,
        "round/update_norm": event.update_norm,
        "round/wall_s": event.wall_s,
    }
    if measured := event.diagnostics:
        values |= {f"clients/{client}/update_norm": norm for client, norm in measured.update_norms.items()}
        values |= {f"clients/{client}/drift": drift for client, drift in measured.drift.items()}
        values |= {"round/agreement": measured.agreement, "round/aggregation_error": measured.error}
    return values


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
