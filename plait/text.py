"""Text from outside made safe for a terminal, a log, a report or an error message.

Names and details come from peers. An escape sequence must not reach a terminal, nor a change of direction a page.
"""

from __future__ import annotations


def printable(text: str, *, limit: int | None = None) -> str:
    """`text` as one printable line.

    Args:
        text: any text. Each control, formatting, separating or unassigned character becomes a space.
        limit: the most characters to return; what is longer is cut and ends with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text  # pictures in a page are megabytes of letters
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(text: str, *, keep: str = "") -> str:
    """`text` with every unprintable character as an escape sequence, so that nothing is lost.

    Args:
        text: any text, such as an error message that quotes a path or a key.
        keep: unprintable characters to leave as they are, such as a line break.
    """
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)
