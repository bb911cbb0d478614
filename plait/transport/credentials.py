"""gRPC's credentials and options for both ends: mutual TLS, keepalive, and bounds on what a peer can make us hold.

Knows nothing of what is said over the connection.
"""

from __future__ import annotations

import grpc

from plait.address import Address, is_loopback
from plait.transport.protocol import CHUNK_BYTES, MAX_MESSAGE_BYTES
from plait.trust.kit import ClientKit, ServerKit

_KEEPALIVE_MS = 20_000
_PING_TIMEOUT_MS = 20_000

_BOTH_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A peer whose network is gone without a word is noticed within 40 s: gRPC waits for a ping's answer as long as the
    # longer of both timeouts says, a minute by default. A slow link needs some time to answer behind what it carries.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # HTTP/2's own 16 KiB would cut every chunk into 64 frames; how much a peer may have under way, windows bound.
    ("grpc.http2.max_frame_size", CHUNK_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.absolute_max_metadata_size", 16384),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_BOTH_OPTIONS,
    # Two servers on one port would each get some of the nodes.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    # So that strangers who connect and say nothing soon make room.
    ("grpc.server_handshake_timeout_ms", 5_000),
    # A node has its long call open, one download, one upload, and a question or two.
    ("grpc.max_concurrent_streams", 8),
    # Else a fast peer's window grows to megabytes a stream, filled before anybody reads; a message that is being read
    # opens it as far as it needs.
    ("grpc.http2.bdp_probe", 0),
    # How much room a read is given. Else it grows to what came in at once, a megabyte and more, and a connection that
    # has brought a large update keeps as much for its next read, however long that takes to come. From 12 KiB on gRPC
    # takes 64 KiB at a time.
    ("grpc.experimental.tcp_max_read_buffer_size", (12 << 10) - 1),
    # A connection without any call in progress is no node.
    ("grpc.max_connection_idle_ms", 10_000),
)
"""Options of the server."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *_BOTH_OPTIONS,
    # Whoever opens the channel has a backoff of its own; gRPC's must not come on top of it.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    # Two nodes in one process must not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
)
"""Options of a node's channel."""


def channel_options(host: str) -> list[tuple[str, int]]:
    """`CHANNEL_OPTIONS`, and for this machine itself no way round by a proxy, which gRPC takes from the environment.

    Args:
        host: DNS name or IP address that is connected to, without brackets.
    """
    return [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if is_loopback(host) else [*CHANNEL_OPTIONS]


def server_credentials(kit: ServerKit) -> grpc.ServerCredentials:
    """TLS for the server; whoever connects must have a certificate from the same authority."""
    tls = kit.tls
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
    )


def channel_credentials(kit: ClientKit | ServerKit) -> grpc.ChannelCredentials:
    """TLS for whoever connects: it shows its certificate and trusts no other authority than its kit's.

    A server's kit connects too, for an operator who asks for the status.
    """
    tls = kit.tls
    return grpc.ssl_channel_credentials(
        root_certificates=tls.authority, private_key=tls.key, certificate_chain=tls.certificate
    )


def open_channel(address: Address, kit: ClientKit | ServerKit | None) -> grpc.Channel:
    """A channel to a server.

    Args:
        address: of the server.
        kit: whose certificate is shown; None for a connection without TLS.
    """
    options = channel_options(address.host)
    if kit is None:
        return grpc.insecure_channel(str(address), options=options)
    return grpc.secure_channel(str(address), channel_credentials(kit), options=options)
