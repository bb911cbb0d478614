"""gRPC's credentials and options for both ends: mutual TLS, keepalive, and bounds on the memory that a peer can use."""

import grpc

from plait.system.address import Address, is_loopback
from plait.transport.protocol import CHUNK_BYTES, MAX_MESSAGE_BYTES
from plait.trust.kit import Kit, ServerKit

_KEEPALIVE_MS = 20_000
_PING_TIMEOUT_MS = 20_000

_BOTH_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A peer whose network is silently lost is noticed within 40 s: gRPC waits for a ping's answer as long as the longer
    # of both timeouts, a minute by default. On a slow link the answer queues behind other data.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # HTTP/2's own 16 KiB would split every chunk into 64 frames; flow-control windows bound the data in flight.
    ("grpc.http2.max_frame_size", CHUNK_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.absolute_max_metadata_size", 16384),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_BOTH_OPTIONS,
    # Two servers on one port would each get some of the nodes.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    # Strangers who connect and send nothing soon make room.
    ("grpc.server_handshake_timeout_ms", 5_000),
    # A node has its long call, one download, one upload, and a few questions.
    ("grpc.max_concurrent_streams", 8),
    # Otherwise a fast peer's window grows to megabytes per stream, filled before it is read; a message being read
    # opens it as far as needed.
    ("grpc.http2.bdp_probe", 0),
    # Size of a read buffer. Otherwise it grows with the data received at once, to a megabyte and more, and a connection
    # that has sent a large update keeps that much for its next read, however long that takes. From 12 KiB on gRPC
    # allocates 64 KiB at a time.
    ("grpc.experimental.tcp_max_read_buffer_size", (12 << 10) - 1),
    # gRPC's own diagnosis of each of thousands of idle connections. (Smaller TLS records would save
    # as much again; but grpc.tsi.max_frame_size corrupts streams to other implementations of gRPC.)
    ("grpc.enable_channelz", 0),
    # A connection without a call in progress is not a node.
    ("grpc.max_connection_idle_ms", 10_000),
)
"""Options of the server."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *_BOTH_OPTIONS,
    # The user of the channel has its own backoff; gRPC's must not add to it.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    # Two nodes in one process must not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
)
"""Options of a node's channel."""


def channel_options(host: str) -> list[tuple[str, int]]:
    """`CHANNEL_OPTIONS`, and for this machine itself no proxy, which gRPC takes from the environment."""
    return [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if is_loopback(host) else [*CHANNEL_OPTIONS]


def server_credentials(kit: ServerKit) -> grpc.ServerCredentials:
    """TLS for the server; clients must have a certificate from the same authority."""
    tls = kit.tls
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
    )


def channel_credentials(kit: Kit) -> grpc.ChannelCredentials:
    """TLS for a client: it shows its certificate and trusts only its kit's authority."""
    tls = kit.tls
    return grpc.ssl_channel_credentials(
        root_certificates=tls.authority, private_key=tls.key, certificate_chain=tls.certificate
    )


def open_channel(address: Address, kit: Kit | None) -> grpc.Channel:
    """A channel to a server, which is shown the kit's certificate; None for a connection without TLS."""
    options = channel_options(address.host)
    if kit is None:
        return grpc.insecure_channel(str(address), options=options)
    return grpc.secure_channel(str(address), channel_credentials(kit), options=options)
