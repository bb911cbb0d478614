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
_OF_ROUND = ("received", "refused", "update_norm", "wall_s")


@dataclass
class Series:
    """The figures of one run, event by event."""

    _now: RunNow = field(default_factory=RunNow, init=False)
    _newest: int = field(default=0, init=False)

    def of(self, event: Event) -> tuple[int, Mapping[str, float]] | None:
        """The round and the figures of an event; None if it has none.

        Rounds never decrease: what an asynchronous run says of an earlier one, as its evaluation, is at the newest.
        """
        self._now.take(event)
        match event:
            case UpdateReceived():
                step, values = event.counted_in, _named(f"clients/{event.client}/", event, _OF_UPDATE)
            case RoundFinished():
                step, values = event.round, _named("round/", event, _OF_ROUND)
                if measured := event.diagnostics:
                    values |= {f"clients/{client}/update_norm": each for client, each in measured.update_norms.items()}
                    values |= {f"clients/{client}/drift": each for client, each in measured.drift.items()}
                    values |= {"round/agreement": measured.agreement, "round/aggregation_error": measured.error}
            case Evaluated():
                sent = self._now.sent
                step, values = event.round, _of_mean("held_out", "", event)
                values |= _of_mean("held_out_personalized", "personalized_", event.own) if event.own else {}
                values |= {"bytes/uplink": sent.uplink_bytes, "bytes/downlink": sent.downlink_bytes}
            case _ if event.logged:
                step, values = vars(event)["round"], dict(event.logged)
            case _:
                return None
        self._newest = max(self._newest, step)
        return self._newest, {name: float(value) for name, value in values.items() if value is not None}


def _named(prefix: str, said: object, names: tuple[str, ...]) -> dict[str, float | None]:
    return {f"{prefix}{name}": getattr(said, name) for name in names}


def _of_mean(group: str, prefix: str, mean: MeanScore) -> dict[str, float | None]:
    values = _named(f"{group}/", mean, _OF_SCORE)
    for client, score in mean.by_client.items():
        values |= _named(f"clients/{client}/{prefix}", score, _OF_SCORE)
    return values
