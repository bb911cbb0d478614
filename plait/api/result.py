"""A run's results as data: frames, figures, adapters and text; preliminary until the run has ended.

Reads the run's files at every use, so the result of a run in progress stays up to date. Opens what a run has learned
from this disk: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from plait.api.frames import losses, rounds, updates, view_of
from plait.errors import ConfigError
from plait.ledger.ledger import read_events
from plait.report.wording import bytes_text, loss_text, plural
from plait.rounds.run_directory import RunDirectory, check_given_out
from plait.system.files import cannot_write, directory_written_aside, make_private_directory

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from plait.adapters import Json
    from plait.ledger.events import Event
    from plait.ledger.run_view import RunView
    from plait.training.generate import TextGenerator


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
        """Held-out losses, a row per round, client and kind of adapter.

        Columns ``round`` (0 is the base alone), ``client``, ``adapter`` (``shared`` or ``personalized``), ``loss`` in
        nats, and those of `plait.api.frames.losses`.
        """
        return losses(self._view())

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
        from plait.report.summary import summarise

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
            return self._personalized(client)
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
        speaker = self._speaker(client, base, device, dtype)
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
        from plait.training.generate import Sampling

        speaker = self._speaker(client, base, device)
        tokens = [tokens_of(speaker, prompt) for prompt in as_prompts(prompts)]
        sampling = Sampling(temperature)
        return speaker.answers(tokens, max_tokens=max_tokens, sampling=sampling, seed=seed, adapted=adapted)

    def _speaker(self, client: str, base: str | PathLike[str], device: str, dtype: str = "auto") -> TextGenerator:
        self.adapter()
        return open_speaker(self.path, client=client, base=fspath(base), device=device, dtype=dtype)

    def _personalized(self, client: str) -> Path:
        """A client's adapter, written as a PEFT directory into the run's at its first use after the run's end."""
        from plait.exporting.peft import prepare_peft
        from plait.exporting.request import ExportRequest
        from plait.exporting.source import open_personal, plain_name

        source = open_personal(self.path, client)
        place = self.path / "personalized" / plain_name(client)
        if place.is_dir() and self.finished:
            return place
        write = prepare_peft(ExportRequest(source, place), lambda _: None)
        try:
            make_private_directory(place.parent)
        except OSError as error:
            raise cannot_write(place.parent, error, doing="make") from error
        with directory_written_aside(place) as folder:
            write(folder)
        return place

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


Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""A text to be continued, or the messages of a chat: mappings with ``role`` and ``content``."""

_SEQ_LEN = 512


def open_speaker(
    adapter: Path, *, client: str = "", base: str = "", device: str = "auto", dtype: str = "auto"
) -> TextGenerator:
    """The adapter of a run, or of a PEFT directory, on its base.

    Args:
        client: whose personalized adapter; by default the shared one.
        base: where the base is, if the adapter names none that is on this disk.

    Raises:
        ConfigError: there is no adapter, its base is not on this disk, or it does not write text.
        BaseMismatchError: `base` is another base.
        PeerError: the directory is not valid.
    """
    from plait.exporting.source import locate_weights, open_personal, open_source
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.device import choose_compute
    from plait.training.generate import TextGenerator
    from plait.training.resident import ResidentBase

    quiet_libraries()
    source = open_personal(adapter, client, base=base) if client else open_source(adapter, base=base)
    located = locate_base(base) if base else locate_weights(source, progress=lambda _: None)
    compute = choose_compute(device, dtype)
    resident = ResidentBase(located.directory, located.reference.fingerprint, compute, seq_len=_SEQ_LEN)
    return TextGenerator(resident, source.spec, source.state)


def tokens_of(speaker: TextGenerator, prompt: Prompt) -> tuple[int, ...]:
    """The tokens of a prompt.

    Raises:
        ConfigError: it is neither a text nor messages, or the base cannot chat.
    """
    if isinstance(prompt, str):
        return speaker.encode(prompt)
    messages = [dict(message) for message in prompt if isinstance(cast("object", message), Mapping)]
    if len(messages) != len(prompt) or not all({"role", "content"} <= message.keys() for message in messages):
        raise ConfigError("a prompt is a text, or a list of messages that have 'role' and 'content'")
    return speaker.encode_chat(messages)


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """A list of prompts, where one alone may be given."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping)):
        return [cast("Prompt", prompts)]
    return cast("Sequence[Prompt]", prompts)
