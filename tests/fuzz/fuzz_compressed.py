"""A compressed message from anybody: everything after its checksum, which is made to fit."""

import zlib

from harness import instrumented, main

with instrumented():
    import numpy as np

    from plait.compress.broadcaster import Broadcaster, Receiver
    from plait.compress.message import MAGIC, Compressor, decompress
    from plait.errors import PeerError

SHAPES = {"a": (30, 20), "b": (), "c": (4, 0), "d": (600,)}
AT = len(MAGIC) + 4


def adapter(seed: int) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(seed).normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def broadcasts() -> tuple[list[bytes], dict[str, np.ndarray]]:
    down, receiver, sent = Broadcaster(), Receiver(), list[bytes]()
    for seed in range(2):
        down.update(adapter(seed))
        sent.append(bytes(down.encode(receiver.holds)))
        receiver.decode(sent[0])
    return [*sent, bytes(down.encode())], receiver.state_dict()


SENT, HELD = broadcasts()


def parse(data: bytes) -> None:
    message = MAGIC + zlib.crc32(data).to_bytes(4, "little") + data
    receiver = Receiver()
    receiver.load_state_dict(HELD)
    for read in (decompress, lambda sent, **bound: decompress(sent, adapter(0), **bound), receiver.decode):
        before = receiver.holds
        try:
            found = read(message, max_numbers=1 << 20)
        except PeerError:
            if receiver.holds != before:
                raise ValueError("a refused message has changed its receiver") from None
            continue
        if not all(np.isfinite(array).all() for array in found.values()):
            raise ValueError("not finite")


def seeds() -> list[bytes]:
    return [message[AT:] for message in (*SENT, Compressor(3).encode(adapter(3)), Compressor("raw").encode(adapter(3)))]


if __name__ == "__main__":
    main(parse, seeds())
