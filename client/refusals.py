"""Why a server refuses a node, and what its operator can do."""

from __future__ import annotations

from collections.abc import Mapping

from client.wording import shown
from plait.errors import BaseMismatchError, PeerError
from plait.v1 import federation_pb2 as pb

_REMEDIES: Mapping[int, str] = {
    pb.REFUSED_REASON_PROTOCOL: "or install the plait version that the server runs",
    pb.REFUSED_REASON_UNKNOWN_KEY: "if this name is provisioned, the server's operator must copy clients.json from the "
    "server folder that `plait provision` made into the server's kit; otherwise have it provisioned and use that kit",
    pb.REFUSED_REASON_REVOKED_KEY: "ask the server's operator for a new kit",
    pb.REFUSED_REASON_WRONG_NAME: "run with the name that the kit was made for, or ask for a kit for this name",
    pb.REFUSED_REASON_BAD_PROOF: "the kit does not match its key; ask the server's operator for a new kit",
    pb.REFUSED_REASON_BASE_MISMATCH: "pass the run's model to --base, with the same weights, config and tokenizer",
    pb.REFUSED_REASON_REPLACED: "another process runs with this name; stop one of the two, or give it its own kit",
    pb.REFUSED_REASON_ROLE: "run with a client's kit",
    pb.REFUSED_REASON_MALFORMED: "install the plait version that the server runs",
}


def final_refusal(refused: pb.Refused) -> PeerError | None:
    """The error that ends the node; None if a retry may help.

    An unknown reason counts as temporary.
    """
    remedy = _REMEDIES.get(refused.reason)
    if remedy is None:
        return None
    kind = BaseMismatchError if refused.reason == pb.REFUSED_REASON_BASE_MISMATCH else PeerError
    return kind(f"server refused this node: {shown(refused.detail) or _word(refused.reason)}; {remedy}")


def passing_refusal(refused: pb.Refused) -> str:
    """Why the node has to wait."""
    if refused.reason == pb.REFUSED_REASON_FULL:
        return f"server accepts no more nodes now: {shown(refused.detail) or 'it is full'}"
    return f"server did not admit this node: {shown(refused.detail) or _word(refused.reason)}"


def _word(reason: int) -> str:
    known = pb.RefusedReason.DESCRIPTOR.values_by_number
    name = known[reason].name if reason in known else f"reason {reason}"
    return name.removeprefix("REFUSED_REASON_").replace("_", " ").lower()
