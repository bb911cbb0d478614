"""Any of Flower's strategies over compressed messages: ``Compressed(FedAvg(…))``.

The strategy computes on exact arrays. The grid that it is given packs what goes out and unpacks what comes in. All
clients train from one *shadow* of the strategy's arrays (`plait.compress.downlink`); a client's change of the shadow is
added to the arrays themselves, so what the way down rounds off is not lost. The client's part: `compression`.
"""

import time
from collections.abc import Iterable, Mapping
from logging import WARNING
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from plait.compress.broadcaster import DOWN_BITS, Broadcaster
from plait.compress.message import DIGEST_BYTES, Content, codec_of, decompress, is_float
from plait.errors import ConfigError, PeerError
from plait.flower.compression import BLOB, KEY, NO_SECURE_AGGREGATION, floats_of, listed, merged, with_blob

_FAILED = 1
_CLIPS = ("DifferentialPrivacyClientSideFixedClipping", "DifferentialPrivacyClientSideAdaptiveClipping")


class Compressed(Strategy):
    """A strategy whose messages are compressed, to clients with `plait.flower.compression_mod`.

    Args:
        strategy: any of Flower's, or a subclass.
        bits: for each number that a client sends, 1 to 8, or "raw".
        down_bits: for each that it is sent; by default as many, and 1.5 at least.

    Raises:
        ConfigError: it cannot work compressed.
    """

    def __init__(self, strategy: Strategy, *, bits: float | str = 1, down_bits: float | str | None = None) -> None:
        kind = type(strategy).__name__
        if "SecAgg" in kind:
            raise ConfigError(NO_SECURE_AGGREGATION)
        if kind in _CLIPS:
            raise ConfigError(
                f"{kind} adds noise for updates that clients have clipped, and a compressed one may be longer: use "
                f"{kind.replace('ClientSide', 'ServerSide')}, which clips what arrives"
            )
        if not isinstance(cast("object", strategy), Strategy) or isinstance(strategy, Compressed):
            raise ConfigError(f"{kind} is none of flwr.serverapp.strategy, whose messages could be compressed")
        if down_bits is None:
            down_bits = bits if isinstance(bits, str) else max(bits, DOWN_BITS)
        for each in (bits, down_bits):
            codec_of(each)
        self.strategy, self.bits, self.down_bits = strategy, bits, down_bits

    def __getattr__(self, name: str) -> Any:
        if name == "strategy":
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def start(self, grid: Grid, *args: Any, **options: Any) -> Result:
        """As the strategy's own, over a grid that compresses."""
        rounds = options.get("num_rounds", args[1] if len(args) > 1 else 3)
        return self.strategy.start(
            cast("Grid", _CompressingGrid(grid, self.bits, self.down_bits, int(rounds))), *args, **options
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The strategy's."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The strategy's."""
        self.strategy.summary()


class _CompressingGrid:
    """A grid whose `send_and_receive` compresses; everything else is the other grid's."""

    def __init__(self, grid: Grid, bits: float | str, down_bits: float | str, rounds: int) -> None:
        self._grid, self._bits, self._down_bits, self._rounds = grid, bits, down_bits, rounds
        self._round, self._gap = 0, 1.0
        self._down: dict[str, Broadcaster] = {}
        self._holds: dict[int, dict[str, bytes]] = {}
        """By node and record, as it last reported."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """As `Grid.send_and_receive`: messages and replies are those that the strategy knows."""
        sent = list(messages)
        plain = {message.metadata.dst_node_id: message.content for message in sent}
        shared = _shared_records([message.content for message in sent])
        if not shared or len(plain) < len(sent):
            return self._grid.send_and_receive(sent, timeout=timeout)
        if sent[0].metadata.message_type.partition(".")[0] == "train":
            self._round += 1
            self._gap = max(1.0, len(list(self._grid.get_node_ids())) / len(sent))
        for name, record in shared.items():
            down = self._down.setdefault(name, Broadcaster(self._down_bits, rounds=self._rounds))
            down.update(floats_of(record), gap=self._gap)
        for message in sent:
            message.content = self._packed(message.content, shared, self._holds.get(message.metadata.dst_node_id, {}))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        lost = {reply.metadata.src_node_id for reply in replies if _needs_all(reply)}
        if lost:
            again = [
                Message(
                    self._packed(plain[message.metadata.dst_node_id], shared, {}), message.metadata.dst_node_id,
                    message.metadata.message_type, group_id=message.metadata.group_id, ttl=message.metadata.ttl,
                )
                for message in sent
                if message.metadata.dst_node_id in lost
            ]  # fmt: skip
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            replies = [reply for reply in replies if not _needs_all(reply)]
            replies += self._grid.send_and_receive(again, timeout=left_s)
        by_node = {message.metadata.dst_node_id: message for message in sent}
        return [self._unpacked(reply, by_node, shared) for reply in replies]

    def _packed(self, content: RecordDict, shared: Mapping[str, ArrayRecord], holds: Mapping[str, bytes]) -> RecordDict:
        packed = RecordDict(dict(content.items()))
        described: dict[str, Any] = {"round": self._round, "bits": self._bits, "records": list(shared)}
        for name, record in shared.items():
            packed[name] = with_blob(record, self._down[name].encode(holds.get(name, b"")))
            if len(cast("ArrayRecord", packed[name])) > 1:
                described[f"order.{name}"] = list(record)
        packed[KEY] = ConfigRecord(described)
        return packed

    def _unpacked(self, reply: Message, sent: Mapping[int, Message], shared: Mapping[str, ArrayRecord]) -> Message:
        """The reply as the app made it; an error in its place if its bytes are wrong."""
        node = reply.metadata.src_node_id
        described = reply.content.get(KEY) if reply.has_content() else None
        try:
            if not isinstance(described, ConfigRecord) or node not in sent:
                if node not in self._holds:
                    log(WARNING, "node %s may lack plait's mod: ClientApp(mods=[compression_mod])", node)
                if reply.has_error():
                    return reply
                raise PeerError("the reply is not compressed: add compression_mod to the ClientApp's mods")
            named = zip(listed(described, "records", str), listed(described, "holds", bytes), strict=False)
            holds = {name: held[: 2 * DIGEST_BYTES] for name, held in named if name in shared}
            content = RecordDict({name: record for name, record in reply.content.items() if name != KEY})
            for name in listed(described, "packed", str):
                if name not in holds or holds[name][:DIGEST_BYTES] != self._down[name].digest:
                    raise PeerError(f"record '{name}' is of another adapter than the one that was sent")
                is_whole = name in listed(described, "whole", str)
                content[name] = self._arrays(content.get(name), shared[name], is_whole=is_whole)
        except PeerError as error:
            return Message(Error(_FAILED, f"refused by plait: {error}"), reply_to=sent.get(node, reply))
        self._holds[node] = holds
        reply.content = content
        return reply

    @staticmethod
    def _arrays(record: object, sent: ArrayRecord, *, is_whole: bool) -> ArrayRecord:
        """What a client made of the arrays that it was sent."""
        if not isinstance(record, ArrayRecord) or BLOB not in record:
            raise PeerError("a record that is named as compressed is not")
        master, message = floats_of(sent), record[BLOB].data
        if len(Content.of(message).parts) > 1:
            raise PeerError("an answer has several parts, expected one")
        found = decompress(message, like={name: np.asarray(array, _wide(array)) for name, array in master.items()})
        floats = {
            name: np.asarray(array if is_whole else master[name] + array, master[name].dtype)
            for name, array in found.items()
        }
        return merged(floats, record, sent)


def _wide(array: Any) -> type[np.floating[Any]]:
    """The type in which a change is added: float32, or float64 where the arrays are."""
    return np.float64 if array.dtype == np.float64 else np.float32


def _shared_records(contents: list[RecordDict]) -> dict[str, ArrayRecord]:
    """The records with float arrays that are the same in all messages."""
    if not contents:
        return {}
    first, *rest = contents
    return {
        name: record
        for name, record in first.array_records.items()
        if any(map(is_float, record.values())) and all(_same(record, other.get(name)) for other in rest)
    }


def _same(record: ArrayRecord, other: object) -> bool:
    return record is other or (
        isinstance(other, ArrayRecord)
        and list(record) == list(other)
        and all(array.data == other[name].data for name, array in record.items())
    )


def _needs_all(reply: Message) -> bool:
    described = reply.content.get(KEY) if reply.has_content() else None
    return isinstance(described, ConfigRecord) and bool(described.get("needs-all"))
