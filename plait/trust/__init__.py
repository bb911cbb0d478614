"""Admission: keys, certificates, start-up kits and revocation."""

from plait.trust.authority import Authority
from plait.trust.diagnose import explain, server_expires
from plait.trust.keys import NodeKey, verify
from plait.trust.kit import ClientKit, Kit, ServerKit, StaffKit, TlsPair, load_asking
from plait.trust.names import check_client_name, composed
from plait.trust.provision import Federation, Outcome, Provisioned, provision, revoke
from plait.trust.register import Register, RegisteredClient, Verdict
from plait.trust.roles import Role

__all__ = [
    "Authority",
    "ClientKit",
    "Federation",
    "Kit",
    "NodeKey",
    "Outcome",
    "Provisioned",
    "Register",
    "RegisteredClient",
    "Role",
    "ServerKit",
    "StaffKit",
    "TlsPair",
    "Verdict",
    "check_client_name",
    "composed",
    "explain",
    "load_asking",
    "provision",
    "revoke",
    "server_expires",
    "verify",
]
