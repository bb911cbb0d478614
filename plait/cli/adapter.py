"""``plait export``, ``plait eval`` and ``plait chat``: what is done with the adapter that a run made."""

import contextlib
import math
import secrets
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from plait.api.evaluate import EvaluationResult
from plait.api.evaluate import evaluate as evaluated
from plait.api.export import Export
from plait.api.export import export as exported
from plait.cli.output import RunOrNewest, print_json, print_tables, run_or_newest
from plait.report.table import Table
from plait.report.terminal import say, status
from plait.report.wording import accuracy_text, change_text, reward_text, within_text
from plait.rounds.evaluation import ClientLoss, wilson
from plait.system.text import escaped

if TYPE_CHECKING:
    from plait.training.generate import Sampling, TextGenerator


def export(
    source: Annotated[
        Path,
        typer.Argument(help="Run directory, PEFT directory, or a node's state directory of a run.", show_default=False),
    ],
    directory: Annotated[
        Path | None,
        typer.Argument(help="New or empty directory to write to; by default first-peft for runs/first."),
    ] = None,
    to: Annotated[str, typer.Option(metavar="peft|merged|gguf|vllm|ollama", help="Target format or program.")] = "peft",
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Give every module this rank, by the best approximation or by padding."),
    ] = None,
    base: Annotated[str, typer.Option(help="Base, if the adapter names none that is available.")] = "",
    served_base: Annotated[str, typer.Option(help="Name of the base in vLLM or Ollama, if it differs.")] = "",
    client: Annotated[str, typer.Option(help="Export this client's personalized adapter.")] = "",
    gguf_type: Annotated[str, typer.Option(metavar="f32|f16", help="Data type in a GGUF file.")] = "f32",
    push_to_hub: Annotated[
        str,
        typer.Option(metavar="OWNER/NAME", help="Also upload the export, with its card, to this hub repository."),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="Let anyone read a repository that --push-to-hub makes.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert an adapter for the program that will serve it, and print the command to serve it.

    Example: plait export runs/first --to vllm served/first
    """
    directory = directory or Path(f"{source.resolve().name}-{to}")
    # The targets are checked there, with a hint for one that is misspelt.
    found = exported(
        source,
        directory,
        to=cast("Literal['peft', 'merged', 'gguf', 'vllm', 'ollama']", to),
        rank=rank,
        base=base or None,
        served_base=served_base,
        client=client,
        gguf_type=cast("Literal['f32', 'f16']", gguf_type),
        push_to_hub=push_to_hub,
        public=public,
        quiet=json_output,
    )
    if json_output:
        print_json(found.figures)
    else:
        _show_export(found, directory)


def _show_export(found: Export, directory: Path) -> None:
    size = sum(found.files.values())
    sys.stdout.write(f"wrote {directory}: {len(found.files)} files, {size / 1e6:.1f} MB\n")
    if found.hub:
        sys.stdout.write(f"uploaded to {found.hub}\n")
    if found.lost:
        sys.stdout.write(f"cut to rank {found.rank}: {found.lost:.2%} of the norm of the weight change was lost\n")
    if found.base.origin.remark:
        sys.stdout.write(f"base {found.base.name}: {found.base.origin.remark}\n")
    for command in found.commands:
        sys.stdout.write(f"\n{command.purpose}:\n\n{textwrap.indent(command.text, '    ')}\n")


def evaluate(
    adapter: Annotated[Path, typer.Option(help="PEFT directory, or a run directory.")],
    data: Annotated[str, typer.Option(help="Data, as in plait simulate.")],
    columns: Annotated[
        str, typer.Option(help="Columns that have other names, such as text=body; see plait simulate.")
    ] = "",
    split: Annotated[
        str, typer.Option(help="Split to evaluate on; by default validation or test, if there is one.")
    ] = "",
    base: Annotated[str, typer.Option(help="Base, if the adapter names none that is available.")] = "",
    objective: Annotated[
        str,
        typer.Option(
            help="Objective by whose loss and rewards preferences are measured; by default the run's, else dpo.",
        ),
    ] = "",
    seq_len: Annotated[int, typer.Option(min=8, help="Tokens per sequence.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per batch.")] = 4,
    max_sequences: Annotated[
        int, typer.Option(min=1, help="Most sequences to evaluate, spread evenly over the data.")
    ] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a base with and without an adapter.

    Example: plait eval --adapter runs/first/adapter --data my.jsonl
    """
    found = evaluated(
        adapter,
        data,
        columns=columns,
        split=split,
        base=base or None,
        objective=objective,
        seq_len=seq_len,
        batch_size=batch_size,
        max_sequences=max_sequences,
        device=device,
        dtype=dtype,
        quiet=json_output,
    )
    if json_output:
        print_json(found.figures)
    else:
        print_tables([_table(found)])


def _table(found: EvaluationResult) -> Table:
    last = ("perplexity",) if found.base.correct is None else ("accuracy",)
    if found.base.reward_margin is not None:
        last = ("reward accuracy", "margin")
    what = "sequences" if found.base.reward_margin is None else f"preferences ({found.objective})"
    return Table(
        title=f"{found.base_name} on {found.data}, {found.base.examples} {what}",
        headings=("", "loss", "change", *last),
        rows=(("base", *_cells(found.base)), ("adapter", *_cells(found.adapter))),
        note="± and brackets are 95 % intervals; the change is compared sequence by sequence.",
    )


def _cells(row: ClientLoss) -> tuple[str, ...]:
    change = "" if row.change is None else within_text(change_text(row.change), row.change_margin)
    if row.correct is None:
        last = (f"{math.exp(row.loss):.2f}",)
    else:
        last = (accuracy_text(row.correct / row.examples, wilson(row.correct, row.examples)),)
    if row.reward_margin is not None:
        last = (*last, reward_text(row.reward_margin))
    return within_text(f"{row.loss:.3f}", row.margin), change, *last


_SWITCH = "/base"
_ANEW = "/new"


def chat(
    named: RunOrNewest = None,
    client: Annotated[str, typer.Option(help="Use this client's personalized adapter.")] = "",
    base: Annotated[str, typer.Option(help="The base, if the run's is elsewhere by now.")] = "",
    text: Annotated[
        bool, typer.Option("--text", help="Continue your text, whatever the base's chat template.")
    ] = False,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 for the most likely text.")] = 0.7,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Talk to the model that a run made; a base without a chat template continues your text.

    From a pipe, the whole input is one prompt, and only the answer is printed.

    Example: echo "def fibonacci(n):" | plait chat runs/first --text
    """
    is_piped = not sys.stdin.isatty()
    run = run_or_newest(named, quiet=is_piped)
    with status("loading libraries and base", quiet=is_piped):
        from plait.api.speech import Sampling, open_speaker

        speaker = open_speaker(run, client=client, base=base, device=device)
    talk = _Talk(speaker, Sampling(temperature), seed, tokens, completes=text or not speaker.chats)
    if is_piped:
        _print(talk, sys.stdin.read().rstrip("\n"))
        return
    doing = "Your text is continued" if talk.completes else "You are answered"
    keys = f"{_SWITCH} switches it off and on, {_ANEW} starts over, Ctrl-D ends."
    say(f"{doing} with the run's adapter. {keys}", quiet=False)
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
    """A conversation, or one text after another, if it `completes` them."""

    def __init__(
        self, speaker: "TextGenerator", sampling: "Sampling", seed: int | None, tokens: int, *, completes: bool
    ) -> None:
        self._speaker, self._sampling, self._seed, self._tokens = speaker, sampling, seed, tokens
        self._messages: list[dict[str, str]] = []
        self.completes = completes
        self.adapted = True

    def forget(self) -> None:
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
        (answer,) = self._speaker.answers(
            [prompt], max_tokens=most, sampling=self._sampling, seed=seed, adapted=self.adapted, show=show
        )
        if not self.completes:
            self._messages.append({"role": "assistant", "content": answer})


def _print(talk: _Talk, line: str) -> None:
    def show(piece: str) -> None:
        # A model may write anything, above all with someone else's adapter.
        sys.stdout.write(escaped(piece, keep="\n\t"))
        sys.stdout.flush()

    try:
        talk.answer(line, show)
    finally:
        sys.stdout.write("\n")
