"""What a client with a kit signs with, and how it knows others."""

from __future__ import annotations

from functools import partial

from plait.trust.endorsement import Endorsement
from plait.trust.identity import NodeIdentity, is_vouched_for
from plait.trust.kit import ClientKit


def identity_of(kit: ClientKit) -> NodeIdentity:
    """What a client with a kit signs with, and how it knows others: by the authority of its federation.

    Raises:
        ConfigError: a file of the kit is damaged.
        MachineError: cannot be read.
    """
    own = Endorsement.of(kit)
    key = kit.node_key
    return NodeIdentity(
        key.public_bytes, key.sign, partial(is_vouched_for, kit.tls.authority), own.certificate, own.signature
    )
