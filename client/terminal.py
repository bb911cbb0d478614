"""Ask the operator one question on the terminal, from any thread.

Reads the terminal itself, not `sys.stdin`: a thread waiting there would keep the process from ending.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

_LOOK_S = 0.2
_MOST_BYTES = 256


def asker(question: str) -> Callable[[], bool] | None:
    """Asks a yes-or-no `question`; None without a terminal."""
    try:
        attended = sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):
        return None  # closed, or none
    if not attended:
        return None
    return lambda: _ask(question, sys.stdin.fileno())


def _ask(question: str, descriptor: int) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = b""
    while b"\n" not in answer and len(answer) < _MOST_BYTES:
        if not select.select([descriptor], [], [], _LOOK_S)[0]:
            continue
        data = os.read(descriptor, _MOST_BYTES)
        if not data:
            break  # hung up
        answer += data
    return answer.strip().lower() in (b"y", b"yes")
