"""Whether a node may join or stay: its key can be revoked at any time, and is then no longer valid.

Knows nothing of how nodes are admitted.
"""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass

from plait.trust.certificate import Role, Shown
from plait.trust.register import Register, Verdict
from plait.v1 import federation_pb2 as pb
from server.hosting import Hosting
from server.log import say
from server.metrics import Metrics
from server.sessions import Session

_REVOKED = pb.ToNode(refused=pb.Refused(reason=pb.REFUSED_REASON_REVOKED_KEY, detail="key has been revoked"))


@dataclass(eq=False)
class Revocation:
    """Rechecks connected nodes against the register, and dismisses those that it no longer knows.

    Attributes:
        admission: who may take part; None lets all stay.
        hosting: the run, and the sessions of its nodes.
        metrics: counts the tasks that are lost.
    """

    admission: Register | None
    _: KW_ONLY
    hosting: Hosting
    metrics: Metrics

    def verdict(self, shown: Shown) -> Verdict:
        """The register's verdict on a certificate; a node whose name is no longer valid is dismissed.

        Raises:
            PlaitError: the register cannot be read.
        """
        if self.admission is None:
            return Verdict.KNOWN
        if shown.role is not Role.CLIENT:
            return self.admission.holds(shown.role, shown.name, shown.key_digest)
        verdict = self.admission.standing(shown.name)
        node = self.hosting.sessions.named(shown.name)
        if verdict is not Verdict.KNOWN and node is not None and node.session is not None:
            self._turn_out(node.session)
        return verdict

    def may_stay(self, session: Session) -> bool:
        """Whether the node's key is valid; if not, its session ends and its answers are not waited for.

        Raises:
            PlaitError: the register cannot be read.
        """
        node = session.node
        if self.admission is None or self.admission.check(node.name, node.public_key) is Verdict.KNOWN:
            return True
        self._turn_out(session)
        return False

    def _turn_out(self, session: Session) -> None:
        if session.is_open:
            name = session.node.name
            say("revoked", level=logging.WARNING, node=name)
            run = self.hosting.run_of(session)
            if run is None:
                session.close(_REVOKED)
            else:
                self.metrics.tasks_lost.inc(run.tasks.expel(session, _REVOKED, f"key of {name} has been revoked"))

    def check_all(self) -> None:
        """Check every connected node.

        Raises:
            PlaitError: the register cannot be read; connected nodes stay.
        """
        for node in self.hosting.sessions.all():
            if node.session is not None and node.session.is_open:
                self.may_stay(node.session)
