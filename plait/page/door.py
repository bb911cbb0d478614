"""The page's door: who is let in, and what each may do. By certificate, or by a link that is used once.

A visitor has the role that a certificate of the federation states and the server's register confirms, both at every
request, so that a revoked kit ends what was opened with it. A link hands its maker's role on, or the observer's: it is
good for some minutes and for one use, and becomes a session. Knows no HTTP.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from plait.errors import PeerError
from plait.page.passes import Passes, Visitor
from plait.trust.certificate import Shown
from plait.trust.register import Register, Verdict
from plait.trust.roles import STAFF, Role

SESSION_S = 8 * 3600.0
MOST_LINK_S = 3600.0
MOST_LINKS = 8
MOST_SESSIONS = 8
"""Unused links, and sessions, of one maker; a further one takes the place of the oldest."""
MOST_MADE = 60
MADE_WITHIN_S = 3600.0
"""Links that one maker makes within that time; each is a line of the journal."""

_ACTS = (
    (re.compile(r"/api/queue/[^/]+/cancel"), frozenset({Role.OPERATOR})),
    (re.compile(r"/api/links"), frozenset(STAFF)),
    (re.compile(r"/api/leave"), frozenset(STAFF)),
)
"""What may be asked with POST, and the roles that may; GET only looks."""


class TurnedAwayError(PeerError):
    """A visitor may not do this.

    Attributes:
        is_known: whether it is known who asks.
    """

    def __init__(self, message: str, *, is_known: bool) -> None:
        super().__init__(message)
        self.is_known = is_known


class TooManyError(TurnedAwayError):
    """A visitor may do this, but has done it too often of late."""


class Door:
    """Lets visitors in; thread-safe.

    Args:
        register: of the federation.
        clock: monotonic, in seconds.
        sessions: file that keeps the sessions; None to forget them with this process.
    """

    def __init__(
        self, register: Register, *, clock: Callable[[], float] = time.monotonic, sessions: Path | None = None
    ) -> None:
        self._register = register
        self._clock = clock
        self._lock = threading.Lock()
        self._links = Passes(most=MOST_LINKS, longest_s=MOST_LINK_S, clock=clock)
        self._sessions = Passes(most=MOST_SESSIONS, longest_s=SESSION_S, clock=clock, file=sessions)
        self._made: dict[str, deque[float]] = {}

    def visitor(self, shown: Shown | None, session: str) -> Visitor:
        """Who asks.

        Args:
            shown: the certificate that TLS has verified; None for none.
            session: as `enter` gave it; empty for none.

        Raises:
            TurnedAwayError: nobody who may look.
            PlaitError: the register cannot be read.
        """
        certified = None if shown is None else Visitor(shown.role, shown, is_certified=True)
        if certified is not None and self.may_stay(certified):
            return certified
        held = self._sessions.find(session)
        if held is not None and self.may_stay(held):
            return held
        if shown is not None:
            raise TurnedAwayError(
                f"{shown.role} '{shown.name}' may not look at this page, expected an operator or an observer",
                is_known=True,
            )
        raise TurnedAwayError(
            "expected an operator's or observer's certificate, or a link from `plait page-link`", is_known=False
        )

    def may_stay(self, visitor: Visitor) -> bool:
        """Whether the register still holds the certificate behind a visitor in its role.

        Raises:
            PlaitError: the register cannot be read.
        """
        shown = visitor.shown
        return shown.role in STAFF and self._register.holds(shown.role, shown.name, shown.key_digest) is Verdict.KNOWN

    def make_link(
        self, maker: Visitor, *, role: Role, seconds: float, record: Callable[[], None] = lambda: None
    ) -> str:
        """The token of a link; whoever uses it first is let in.

        Args:
            maker: who answers for it.
            role: of whoever uses it.
            seconds: how long it is good.
            record: called before the link can be used, and never for one that is refused; if it raises, there is none.

        Raises:
            TurnedAwayError: the maker has come by a link itself, has less than that role, asks for too long, or has
                made too many.
        """
        if not maker.is_certified:
            raise TurnedAwayError("a link makes no further links, expected a certificate", is_known=True)
        if role is not Role.OBSERVER and role is not maker.role:
            raise TurnedAwayError(f"{maker.role} '{maker.name}' may not make {role.of}'s link", is_known=True)
        if not 0 < seconds <= MOST_LINK_S:
            raise TurnedAwayError(f"link is for {seconds:g} s, expected 1 to {MOST_LINK_S:g}", is_known=True)
        self._count(maker)
        record()
        return self._links.issue(Visitor(role, maker.shown, is_certified=False), seconds)

    def _count(self, maker: Visitor) -> None:
        """Count one more link of a maker."""
        with self._lock:
            made, now = self._made.setdefault(maker.name, deque(maxlen=MOST_MADE)), self._clock()
            if len(made) == MOST_MADE and (wait_s := made[0] + MADE_WITHIN_S - now) > 0:
                raise TooManyError(
                    f"{maker.role} '{maker.name}' has made {MOST_MADE} links within an hour, expected fewer; the next "
                    f"one in {wait_s / 60:.0f} minutes",
                    is_known=True,
                )
            made.append(now)

    def enter(self, link: str) -> tuple[Visitor, str]:
        """Use a link: the visitor, and the token of its session.

        Raises:
            TurnedAwayError: it is none, was used, or is too old.
            PlaitError: the register cannot be read.
        """
        used = self._links.take(link)
        if used is None or not self.may_stay(used):
            raise TurnedAwayError("this link was used, or is no longer good; ask for another", is_known=False)
        return used, self._sessions.issue(used, SESSION_S)

    def leave(self, session: str) -> None:
        """End a session."""
        self._sessions.take(session)


def check_act(visitor: Visitor, path: str) -> None:
    """Check that a visitor may ask for something to be done; whatever is not listed, nobody may.

    Raises:
        TurnedAwayError: it may not.
    """
    allowed = next((roles for pattern, roles in _ACTS if pattern.fullmatch(path)), frozenset[Role]())
    if visitor.role not in allowed:
        raise TurnedAwayError(f"{visitor.role} '{visitor.name}' may not do that", is_known=True)
