"""A run's results as data: frames, figures, adapters and text, read from its files at every use.

In pandas frames losses are in nats (per token; per example for classification), margins are half of a 95 % interval,
times in seconds. What a run does not record is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, cast

from plait.errors import ConfigError
from plait.ledger.events import Event, MeanScore
from plait.ledger.ledger import read_events
from plait.ledger.run_now import Traffic
from plait.ledger.run_view import RunView
from plait.report.summary import summarise
from plait.report.wording import bytes_text, loss_text, plural
from plait.rounds.run_directory import RunDirectory, check_given_out
from plait.system.text import Json

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from plait.api.speech import Prompt

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


class Result:
    """A run, finished or not.

    It stands for the run's directory wherever a path is expected (``os.fspath``).

    Raises:
        ConfigError: there is no run.
        PeerError: later, from what reads the ledger: it is broken.
    """

    def __init__(self, run: str | PathLike[str]) -> None:
        self._directory = RunDirectory.find(Path(run))

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._directory.path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def finished(self) -> bool:
        """Whether the run has ended; otherwise everything here is preliminary."""
        return view_of(self).finished

    @property
    def losses(self) -> pd.DataFrame:
        """Held-out losses, from which decisions follow, a row per round, client and kind of adapter.

        Columns: ``round`` (0 is the base alone); ``client``; ``adapter``, ``shared`` or ``personalized``; ``loss`` in
        nats and ``loss_margin``; ``change`` since round 0 on the same sequences and ``change_margin``; ``accuracy``,
        from 0 to 1, for classification; ``tokens`` (examples for classification) and ``sequences`` that the loss is the
        mean of; and one for each metric of the run (``--eval-metrics``).
        """
        view = view_of(self)
        return frame_of(_scores_in(_means(view)), _LOSSES, view.metric_names)

    @property
    def judged(self) -> pd.DataFrame:
        """The final figure: as `losses`, of the part of each client's data that no decision looked at, measured once.

        ``change`` is against the base. A client without such a part (``--judge-part``) has no row.
        """
        view = view_of(self)
        final = {SHARED: view.judged, PERSONALIZED: view.judged and view.judged.own}
        means = ((view.judged.round, kind, mean) for kind, mean in final.items() if view.judged and mean)
        return frame_of(_scores_in(means), _LOSSES, view.metric_names)

    @property
    def updates(self) -> pd.DataFrame:
        """The accepted updates, a row per round and client.

        Columns: ``round``, whose step the update is a part of; ``client``; ``bytes``, everything sent between server
        and client in that round, and its parts ``uplink_bytes`` and ``downlink_bytes``; ``norm``, the Euclidean norm of
        the delta over all tensors; ``drift``, the Frobenius norm of the change of the product B A; ``train_loss``, the
        mean over the local steps, and ``first_loss``, of the first step, in nats; ``reward``, the mean of sampled
        completions (``--objective grpo``); ``examples`` of the client and ``tokens`` that it trained on; ``train_s``;
        ``codec``, ``bits_per_parameter``, ``distortion`` (relative error of the encoding) and ``codec_s`` of the
        delta's encoding. ``norm`` and ``drift`` are of finished rounds, for methods with pairs of factors.
        """
        return frame_of(_updates_of(view_of(self)), _UPDATES)

    @property
    def rounds(self) -> pd.DataFrame:
        """The mean loss over all held-out tokens, one row per evaluation and kind of adapter.

        Columns: those of `losses` without the client, and ``bytes``, sent in both directions before the evaluation.
        """
        view = view_of(self)
        return frame_of(_rounds_of(view), _ROUNDS, view.metric_names)

    @property
    def summary(self) -> Mapping[str, Json]:
        """The figures of ``summary.json``, under the same keys."""
        return summarise(view_of(self))

    @property
    def events(self) -> tuple[Event, ...]:
        """The whole ledger, its chain checked."""
        return tuple(read_events(self._directory.ledger))

    def adapter(self, client: str = "") -> Path:
        """The directory of an adapter, for ``PeftModel.from_pretrained(base, …)``.

        Args:
            client: whose personalized adapter; by default the shared one.

        Raises:
            ConfigError: there is no adapter yet, no such client, or no personalized adapters in this run.
        """
        if client:
            from plait.exporting.peft import personal_directory

            return personal_directory(self.path, client, is_final=self.finished)
        if not (self._directory.adapter / "adapter_config.json").is_file():
            raise ConfigError(f"'{self.path}' has no adapter yet: no round is finished")
        check_given_out(self._directory.adapter)
        return self._directory.adapter

    def load(
        self, client: str = "", *, base: str | PathLike[str] = "", device: str = "auto", dtype: str = "auto"
    ) -> tuple[PeftModel, PreTrainedTokenizerBase]:
        """The base with an adapter on it, and its tokenizer, from this disk: nothing is downloaded.

        Args:
            client: whose personalized adapter; by default the shared one.
            base: directory or name of the base, if it has moved since the run.
            device: to put it on: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: of the base: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

        Raises:
            ConfigError: there is no adapter yet, or no such client, or the base is not on this disk.
            BaseMismatchError: `base` is another base than the run's.
        """
        speaker = self._speech().open_speaker(self.path, client=client, base=fspath(base), device=device, dtype=dtype)
        return speaker.model, cast("PreTrainedTokenizerBase", speaker.tokenizer)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        adapted: bool = True,
        client: str = "",
        base: str | PathLike[str] = "",
        device: str = "auto",
    ) -> list[str]:
        """Generate text after each prompt with the run's model, from files on this disk only.

        Args:
            prompts: one or several: a text to continue, or a chat's messages (``role`` and ``content``) to answer by
                the base's chat template.
            temperature: 0 for the most likely text; otherwise tokens are sampled.
            seed: of the sampling: the same seed gives the same text.
            adapted: whether to use the adapter; False uses the base alone.
            client: whose personalized adapter; by default the shared one.

        Returns:
            A text for each prompt, without the prompt.

        Raises:
            ConfigError: there is no adapter yet, the base is not on this disk or cannot chat, or the adapter is a
                classifier.
            MachineError: the model failed.
        """
        speech = self._speech()
        speaker = speech.open_speaker(self.path, client=client, base=fspath(base), device=device)
        tokens = [speech.tokens_of(speaker, prompt) for prompt in speech.as_prompts(prompts)]
        sampling = speech.Sampling(temperature)
        return speaker.answers(tokens, max_tokens=max_tokens, sampling=sampling, seed=seed, adapted=adapted)

    def _speech(self):
        """What writes text with a run's adapter, of which there must be one."""
        from plait.api import speech  # with the libraries of training

        self.adapter()
        return speech

    def __repr__(self) -> str:
        view = view_of(self)
        base, final = view.base_evaluation, view.final_evaluation
        losses = [loss_text(each.loss) for each in (base, final) if each]
        done = plural(len(view.rounds), "round")
        parts = (
            done if view.finished else f"{done} of {view.planned_rounds}",
            f"held-out loss {' to '.join(losses)}" if losses else "",
            bytes_text(view.sent.total_bytes),
        )
        return f"<plait.Result '{self.path}': {', '.join(filter(None, parts))}>"


def open_run(run: str | PathLike[str]) -> Result:
    """The result of a run on this disk, simulated or served, finished or not.

    Raises:
        ConfigError: there is no run.
    """
    return Result(run)


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
            **vars(traffic),
            "norm": measured.update_norms.get(client) if measured else None,
            "drift": measured.drift.get(client) if measured else None,
        }


def _rounds_of(view: RunView) -> Iterator[Row]:
    for number, adapter, mean in _means(view):
        sent = {"round": number, "adapter": adapter, "bytes": view.sent_bytes_before[number]}
        yield {**(mean.metrics or {}), **mean.model_dump(exclude={"by_client", "own"}), **sent}


def frame_of(rows: Iterable[Row], columns: Mapping[str, str], metrics: Iterable[str] = ()) -> pd.DataFrame:
    """The rows under these columns, and those of metrics, with their types, which are the same whatever is in them."""
    import pandas as pd

    types = {**columns, **dict.fromkeys(metrics, NUMBER)}
    frame = pd.DataFrame([{name: row.get(name) for name in types} for row in rows], columns=list(types))
    return frame.astype(types)
