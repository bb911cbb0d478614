"""Links and sessions of the page: whoever holds a token is taken for somebody, for a while.

Tokens are kept as digests. Sessions stand in a file as well, so that a server that was killed still knows them. Says
nothing of what a visitor may do, and whether a kit was revoked meanwhile is asked elsewhere.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from plait.errors import PlaitError
from plait.files import write_atomically
from plait.trust.certificate import Shown
from plait.trust.roles import Role
from plait.trust.secret_file import read_secret

SESSIONS_FILE = ".page-sessions.json"

_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Visitor:
    """Somebody who may look at least.

    Attributes:
        role: what it may do.
        shown: the certificate, or that of whoever made its link.
        is_certified: whether it has shown that certificate itself.
    """

    role: Role
    shown: Shown
    is_certified: bool

    @property
    def name(self) -> str:
        """Who answers for what it does."""
        return self.shown.name


@dataclass(frozen=True)
class _Pass:
    visitor: Visitor
    until: float


_Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class _Written:
    """A pass in the file; `until` is in seconds since 1970."""

    token: _Hex
    role: Role
    name: str
    maker: Role
    key: _Hex
    until: float


_FILE = TypeAdapter(list[_Written])


class Passes:
    """Passes of one kind; thread-safe.

    Args:
        most: of one maker; a further one takes the place of the oldest.
        longest_s: no pass is good for longer.
        clock: monotonic, in seconds.
        file: keeps them; None for none.
    """

    def __init__(self, *, most: int, longest_s: float, clock: Callable[[], float], file: Path | None = None) -> None:
        self._most = most
        self._longest_s = longest_s
        self._clock = clock
        self._file = file
        self._lock = threading.Lock()
        self._held: dict[bytes, _Pass] = {}
        if file is not None and file.exists():
            self._load(file)

    def issue(self, visitor: Visitor, seconds: float) -> str:
        """A new token, by which its holder is taken for a visitor."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        with self._lock:
            self._expire()
            own = [key for key, held in self._held.items() if held.visitor.name == visitor.name]
            for oldest in own[: max(0, len(own) - self._most + 1)]:
                del self._held[oldest]
            self._held[_digest(token)] = _Pass(visitor, self._clock() + seconds)
            self._save()
        return token

    def find(self, token: str) -> Visitor | None:
        """Who holds a token; None if it is none, or too old."""
        with self._lock:
            self._expire()
            held = self._held.get(_digest(token))
        return None if held is None else held.visitor

    def take(self, token: str) -> Visitor | None:
        """The same, and the token is good no longer."""
        with self._lock:
            self._expire()
            held = self._held.pop(_digest(token), None)
            if held is not None:
                self._save()
        return None if held is None else held.visitor

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, held in self._held.items() if held.until <= now]:
            del self._held[key]

    def _save(self) -> None:
        if self._file is None:
            return
        ahead = time.time() - self._clock()
        written = [
            _Written(key.hex(), each.visitor.role, each.visitor.name, shown.role, shown.key_digest.hex(), until + ahead)
            for key, each in self._held.items()
            for shown, until in [(each.visitor.shown, each.until)]
        ]
        try:
            write_atomically(self._file, _FILE.dump_json(written), mode=0o600)
        except PlaitError as error:
            # They are good as long as this process lives, and none that was ended comes back with the next.
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
            logging.getLogger("plait.page").warning("sessions of the page are not kept: %s", error)

    def _load(self, file: Path) -> None:
        try:
            written = _FILE.validate_json(read_secret(file))
        except (PlaitError, ValidationError) as error:
            why = f"'{file}' is not what plait wrote" if isinstance(error, ValidationError) else error
            logging.getLogger("plait.page").warning("sessions of the page are forgotten: %s", why)
            return
        now = self._clock()
        for each in written:
            left_s = min(each.until - time.time(), self._longest_s)
            shown = Shown(each.name, each.maker, bytes.fromhex(each.key))
            self._held[bytes.fromhex(each.token)] = _Pass(Visitor(each.role, shown, is_certified=False), now + left_s)


def _digest(token: str) -> bytes:
    # A token that is none has no digest that is kept.
    return sha256(token.encode()).digest() if _TOKEN.fullmatch(token) else b""
