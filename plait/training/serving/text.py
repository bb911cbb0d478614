"""From tokens to text as they arrive: complete characters only, and nothing that may turn out to be a stop string.

Knows no model: it gets a decoding function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Decoders' replacement for bytes that are not yet a character.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# No character has more bytes, and no token less than one: what is incomplete for longer will never be complete.
_TOKENS_OF_A_CHARACTER = 4

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The text of one row.

    Args:
        stop: strings that end the text; they are not part of it.
    """

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = tuple(text for text in stop if text)
        self._tokens: list[int] = []
        # Tokens up to `_read` are text already; those from `_context` on are decoded with the following ones, because
        # the first token of a decoded sequence may lose its space.
        self._context = self._read = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add the next token; returns the text that is now certain."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._context : self._read])
        now = self._decode(self._tokens[self._context :])
        unfinished = now.endswith(_UNFINISHED) and len(self._tokens) - self._read < _TOKENS_OF_A_CHARACTER
        if unfinished or len(now) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return self._add(now[len(before) :])

    def finish(self) -> str:
        """The text held back; no token follows."""
        if self.stopped:
            return ""
        before = self._decode(self._tokens[self._context : self._read])
        text = self._add(self._decode(self._tokens[self._context :])[len(before) :])
        if self.stopped:
            return text
        held, self._held = self._held, ""
        return text + held

    def _add(self, text: str) -> str:
        text = self._held + text
        ends = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
