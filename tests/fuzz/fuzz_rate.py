"""The variable-rate codec: two bytes for the length of the parameters and the layout, then parameters and payload.

Compiled code and numpy have to find the same numbers, or to refuse for the same reason. As numpy takes ten times as
long, it is asked of every sixteenth input.
"""

import zlib

from harness import instrumented, main

with instrumented():
    import numpy as np

    from plait.adapters import AdapterState, Layout
    from plait.errors import PeerError
    from plait.wire.codecs import Rate, compiled

LAYOUTS = (
    Layout.of({"a": (30, 20), "b": (), "c": (4, 0), "d": (600,), "e": (33,)}),
    Layout.of({"a": (300, 200), "b": (5000,), "c": (600,)}),  # two streams
)
LIBRARY = compiled.library()


def parse(data: bytes) -> None:
    which = int.from_bytes(data[:2], "little")
    cut, layout = 2 + which % (1 << 15), LAYOUTS[which >> 15]
    found = decoded(data[2:cut], data[cut:], layout, LIBRARY)
    if zlib.crc32(data) % 16 == 0 and (other := decoded(data[2:cut], data[cut:], layout, None)) != found:
        raise ValueError(f"compiled code and numpy differ: {found[:100]!r}, {other[:100]!r}")


def decoded(parameters, payload, layout, library) -> bytes | str:
    compiled.library = lambda: library
    try:
        flat = Rate().decode(parameters, payload, layout)
    except PeerError as error:
        return str(error)
    if flat.shape != (layout.size,) or not np.isfinite(flat).all():
        raise ValueError("not a correct tensor")
    return flat.tobytes()


def seeds() -> list[bytes]:
    found = []
    for which, bits in ((0, 1), (0, 3), (0, 8), (1, 0.3)):  # inputs have 4,096 bytes at most
        layout = LAYOUTS[which]
        values = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
        values[:600] /= 10
        packed = Rate(bits, 3).encode(AdapterState(layout, values))
        head = (which << 15) + len(packed.parameters)
        found.append(head.to_bytes(2, "little") + packed.parameters + packed.payload)
    return found


if __name__ == "__main__":
    main(parse, seeds())
