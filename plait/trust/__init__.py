"""Admission: keys, certificates, start-up kits and revocation."""

from plait.trust.authority import Authority
from plait.trust.diagnose import explain
from plait.trust.keys import NodeKey, verify
from plait.trust.kit import ClientKit, ServerKit, TlsPair
from plait.trust.names import check_client_name, composed
from plait.trust.provision import Federation, Outcome, Provisioned, provision, revoke
from plait.trust.register import Register, RegisteredClient, Verdict

__all__ = [
    "Authority",
    "ClientKit",
    "Federation",
    "NodeKey",
    "Outcome",
    "Provisioned",
    "Register",
    "RegisteredClient",
    "ServerKit",
    "TlsPair",
    "Verdict",
    "check_client_name",
    "composed",
    "explain",
    "provision",
    "revoke",
    "verify",
]
