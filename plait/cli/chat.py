"""``plait chat``: talk to the model that a run made. Ctrl-D ends it; Ctrl-C ends the answer that is being written."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from plait.api.speech import open_speaker
from plait.cli.output import RunOrNewest, run_or_newest
from plait.report.progress import say, status
from plait.system.text import escaped

if TYPE_CHECKING:
    from plait.training.generate import Sampling, TextGenerator

_SWITCH = "/base"
_ANEW = "/new"


def chat(
    named: RunOrNewest = None,
    client: Annotated[str, typer.Option("--client", help="Use this client's personalized adapter.")] = "",
    base: Annotated[str, typer.Option("--base", help="The base, if the run's is elsewhere by now.")] = "",
    text: Annotated[
        bool, typer.Option("--text", help="Continue your text, whatever the base's chat template.")
    ] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Most tokens of an answer.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="0 for the most likely text.")
    ] = 0.7,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same text.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Talk to the model that a run made; a base without a chat template continues your text.

    From a pipe, the whole input is one prompt, and only the answer is printed.

    Example: echo "def fibonacci(n):" | plait chat runs/first --text
    """
    is_piped = not sys.stdin.isatty()
    run = run_or_newest(named, quiet=is_piped)
    with status("loading libraries and base", quiet=is_piped):
        from plait.training.generate import Sampling

        speaker = open_speaker(run, client=client, base=base, device=device)
    talk = _Talk(speaker, Sampling(temperature), seed, tokens, completes=text or not speaker.chats)
    if is_piped:
        _print(talk, sys.stdin.read().rstrip("\n"))
        return
    doing = "Your text is continued" if talk.completes else "You are answered"
    say(
        f"{doing} with the run's adapter. {_SWITCH} switches it off and on, {_ANEW} starts over, Ctrl-D ends.",
        quiet=False,
    )
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            say("", quiet=False)
            return
        if line == _SWITCH:
            talk.adapted = not talk.adapted
            say("with the adapter" if talk.adapted else "the base alone", quiet=False)
        elif line == _ANEW:
            talk.forget()
        elif line:
            with contextlib.suppress(KeyboardInterrupt):
                _print(talk, line)


class _Talk:
    """A conversation, or one text after another.

    Attributes:
        completes: whether texts are continued, each separately.
    """

    def __init__(
        self, speaker: TextGenerator, sampling: Sampling, seed: int | None, tokens: int, *, completes: bool
    ) -> None:
        self._speaker = speaker
        self._sampling, self._seed = sampling, seed
        self._tokens = tokens
        self._messages: list[dict[str, str]] = []
        self.completes = completes
        self.adapted = True

    def forget(self) -> None:
        """Begin a new conversation."""
        self._messages.clear()

    def answer(self, line: str, show: Callable[[str], None]) -> None:
        """Show the pieces of what follows a line; the oldest turns are dropped where the context is full."""
        if self.completes:
            prompt = self._speaker.encode(line)
        else:
            self._messages.append({"role": "user", "content": line})
            prompt = self._speaker.encode_chat(self._messages)
            while len(self._messages) > 2 and self._speaker.room(prompt) < self._tokens:
                del self._messages[:2]
                prompt = self._speaker.encode_chat(self._messages)
        most = min(self._tokens, max(1, self._speaker.room(prompt)))
        seed = secrets.randbits(63) if self._seed is None else self._seed
        (said,) = self._speaker.answers(
            [prompt], max_tokens=most, sampling=self._sampling, seed=seed, adapted=self.adapted, show=show
        )
        if not self.completes:
            self._messages.append({"role": "assistant", "content": said})


def _print(talk: _Talk, line: str) -> None:
    def show(piece: str) -> None:
        # A model may write anything, above all with someone else's adapter.
        sys.stdout.write(escaped(piece, keep="\n\t"))
        sys.stdout.flush()

    try:
        talk.answer(line, show)
    finally:
        sys.stdout.write("\n")
