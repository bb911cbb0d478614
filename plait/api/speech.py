"""A run's model on its base, to write text: from files on this disk alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from plait.errors import ConfigError
from plait.exporting.source import locate_weights, open_personal, open_source
from plait.training.bases import locate_base, quiet_libraries
from plait.training.device import choose_compute
from plait.training.generate import Sampling, TextGenerator
from plait.training.resident import ResidentBase

__all__ = ["Prompt", "Sampling", "as_prompts", "open_speaker", "tokens_of"]

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
    quiet_libraries()
    source = open_personal(adapter, client, base=base) if client else open_source(adapter, base=base)
    located = locate_base(base) if base else locate_weights(source, progress=lambda _: None)
    compute = choose_compute(device, dtype)
    resident = ResidentBase(located.directory, located.reference.fingerprint, compute, seq_len=_SEQ_LEN)
    return TextGenerator(resident, source.spec, source.state)


def tokens_of(speaker: TextGenerator, prompt: Prompt) -> tuple[int, ...]:
    """The tokens of a prompt; ConfigError if it is neither a text nor messages, or the base cannot chat."""
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
