"""A run's results as data: frames, figures, adapters and text, read from its files at every use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, cast

from plait.api.frames import judged, losses, rounds, updates, view_of
from plait.errors import ConfigError
from plait.ledger.ledger import read_events
from plait.report.summary import summarise
from plait.report.wording import bytes_text, loss_text, plural
from plait.rounds.run_directory import RunDirectory, check_given_out
from plait.system.text import Json

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from plait.api.speech import Prompt
    from plait.ledger.events import Event
    from plait.ledger.run_view import RunView


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
        return self._view().finished

    @property
    def losses(self) -> pd.DataFrame:
        """Held-out losses, from which decisions follow, a row per round, client and kind of adapter.

        Columns ``round`` (0 is the base alone), ``client``, ``adapter`` (``shared`` or ``personalized``), ``loss`` in
        nats, and those of `plait.api.frames.losses`.
        """
        return losses(self._view())

    @property
    def judged(self) -> pd.DataFrame:
        """The final figure by client and kind of adapter, on data that no decision looked at.

        Columns as `losses`; see `plait.api.frames.judged`.
        """
        return judged(self._view())

    @property
    def updates(self) -> pd.DataFrame:
        """The accepted updates, a row per round and client.

        Columns ``round``, ``client``, ``bytes``, ``norm``, ``drift``, ``train_loss``, and those of
        `plait.api.frames.updates`.
        """
        return updates(self._view())

    @property
    def rounds(self) -> pd.DataFrame:
        """The mean held-out loss, a row per evaluation and kind of adapter; see `plait.api.frames.rounds`."""
        return rounds(self._view())

    @property
    def summary(self) -> Mapping[str, Json]:
        """The figures of ``summary.json``, under the same keys."""
        return summarise(self._view())

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

    def _view(self) -> RunView:
        return view_of(self.path)

    def __repr__(self) -> str:
        view = self._view()
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
