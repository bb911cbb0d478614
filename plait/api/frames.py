"""What a run's ledger holds, as pandas frames: losses by client, updates by client, and one row per evaluation.

Losses are in nats (per token; per example for classification), margins are half of a 95 % interval, times in seconds.
What a run does not record is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from plait.ledger.events import MeanScore
from plait.ledger.ledger import read_events
from plait.ledger.run_now import Traffic
from plait.ledger.run_view import RunView
from plait.rounds.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, object]

SHARED, PERSONALIZED = "shared", "personalized"
"""The kinds of adapters whose losses a run records."""

NUMBER, COUNT, TEXT = "float64", "int64", "str"
"""The types of columns; only a number can be missing."""

_SCORES = {
    "loss": NUMBER, "loss_margin": NUMBER, "change": NUMBER, "change_margin": NUMBER, "accuracy": NUMBER,
}  # fmt: skip
_LOSSES: Mapping[str, str] = {
    "round": COUNT, "client": TEXT, "adapter": TEXT, **_SCORES, "tokens": NUMBER, "sequences": NUMBER,
}  # fmt: skip
_UPDATES: Mapping[str, str] = {
    "round": COUNT, "client": TEXT, "bytes": COUNT, "uplink_bytes": COUNT, "downlink_bytes": COUNT,
    "norm": NUMBER, "drift": NUMBER, "train_loss": NUMBER, "first_loss": NUMBER, "reward": NUMBER,
    "examples": COUNT, "tokens": COUNT, "train_s": NUMBER,
    "codec": TEXT, "bits_per_parameter": NUMBER, "distortion": NUMBER, "codec_s": NUMBER,
}  # fmt: skip
_ROUNDS: Mapping[str, str] = {"round": COUNT, "adapter": TEXT, **_SCORES, "bytes": COUNT}


def view_of(run: str | PathLike[str]) -> RunView:
    """The ledger of a run directory; ConfigError without a run, PeerError if its ledger is broken."""
    return RunView.of(read_events(RunDirectory.find(Path(run)).ledger))


def losses(run: RunView) -> pd.DataFrame:
    """Held-out losses of every evaluation, one row per round, client and kind of adapter; decisions follow from them.

    Columns: ``round`` (0 is the base alone); ``client``; ``adapter``, ``shared`` or ``personalized``; ``loss`` in nats
    and ``loss_margin``; ``change`` since round 0 on the same sequences and ``change_margin``; ``accuracy``, from 0 to
    1, for classification; ``tokens`` (examples for classification) and ``sequences`` that the loss is the mean of; and
    one for each metric of the run (``--eval-metrics``).
    """
    return frame_of(_scores_in(_means(run)), {**_LOSSES, **dict.fromkeys(run.metric_names, NUMBER)})


def judged(run: RunView) -> pd.DataFrame:
    """The final figure: as `losses`, of the part of each client's data that no decision looked at, measured once.

    ``change`` is against the base. A client without such a part (``--judge-part``) has no row.
    """
    final = {SHARED: run.judged, PERSONALIZED: run.judged and run.judged.own}
    means = ((run.judged.round, kind, mean) for kind, mean in final.items() if run.judged and mean)
    return frame_of(_scores_in(means), {**_LOSSES, **dict.fromkeys(run.metric_names, NUMBER)})


def updates(run: RunView) -> pd.DataFrame:
    """The accepted updates, one row per round and client.

    Columns: ``round``, whose step the update is a part of; ``client``; ``bytes``, everything sent between server and
    client in that round, and its parts ``uplink_bytes`` and ``downlink_bytes``; ``norm``, the Euclidean norm of the
    delta over all tensors; ``drift``, the Frobenius norm of the change of the product B A; ``train_loss``, the mean
    over the local steps, and ``first_loss``, of the first step, in nats; ``reward``, the mean of sampled completions
    (``--objective grpo``); ``examples`` of the client and ``tokens`` that it trained on; ``train_s``; ``codec``,
    ``bits_per_parameter``, ``distortion`` (relative error of the encoding) and ``codec_s`` of the delta's encoding.
    ``norm`` and ``drift`` are of finished rounds, for methods with pairs of factors.
    """
    return frame_of(_updates_of(run), _UPDATES)


def rounds(run: RunView) -> pd.DataFrame:
    """The mean loss over all held-out tokens, one row per evaluation and kind of adapter.

    Columns: those of `losses` without the client, and ``bytes``, sent in both directions before the evaluation.
    """
    return frame_of(_rounds_of(run), {**_ROUNDS, **dict.fromkeys(run.metric_names, NUMBER)})


def _means(view: RunView) -> Iterator[tuple[int, str, MeanScore]]:
    for number, evaluation in sorted(view.evaluations.items()):
        yield number, SHARED, evaluation
        if evaluation.own is not None:
            yield number, PERSONALIZED, evaluation.own


def _scores_in(means: Iterable[tuple[int, str, MeanScore]]) -> Iterator[Row]:
    for number, adapter, mean in means:
        for client, score in mean.by_client.items():
            yield {**(score.metrics or {}), **score.model_dump(), "round": number, "client": client, "adapter": adapter}


def _updates_of(view: RunView) -> Iterator[Row]:
    for update in sorted(view.updates.values(), key=lambda each: (each.counted_in, each.client)):
        number, client = update.counted_in, update.client
        finished = view.rounds.get(number)
        measured = finished.diagnostics if finished else None
        traffic = view.traffic.get((number, client), Traffic())
        yield {
            **update.model_dump(),
            "round": number,
            "bytes": traffic.total_bytes,
            "uplink_bytes": traffic.uplink_bytes,
            "downlink_bytes": traffic.downlink_bytes,
            "norm": measured.update_norms.get(client) if measured else None,
            "drift": measured.drift.get(client) if measured else None,
        }


def _rounds_of(view: RunView) -> Iterator[Row]:
    for number, adapter, mean in _means(view):
        sent = {"round": number, "adapter": adapter, "bytes": view.sent_bytes_before[number]}
        yield {**(mean.metrics or {}), **mean.model_dump(exclude={"by_client", "own"}), **sent}


def frame_of(rows: Iterable[Row], columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows under these columns with their types, which are the same whatever is in them."""
    import pandas as pd

    frame = pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=list(columns))
    return frame.astype(dict(columns))
