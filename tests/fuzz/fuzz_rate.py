"""The variable-rate codec: two bytes for the number of parameter bytes, the rest is payload."""

from harness import instrumented, main

with instrumented():
    import numpy as np

    from plait.adapters import AdapterState, Layout
    from plait.wire.codecs import Rate

LAYOUT = Layout.of({"a": (30, 20), "b": (), "c": (4, 0), "d": (600,), "e": (33,)})


def parse(data: bytes) -> None:
    cut = 2 + int.from_bytes(data[:2], "little")
    flat = Rate().decode(data[2:cut], data[cut:], LAYOUT)
    if flat.shape != (LAYOUT.size,) or not np.isfinite(flat).all():
        raise ValueError("not a correct tensor")


def seeds() -> list[bytes]:
    values = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    values[:600] /= 10
    found = []
    for bits in (1, 3, 8):
        packed = Rate(bits, 3).encode(AdapterState(LAYOUT, values))
        found.append(len(packed.parameters).to_bytes(2, "little") + packed.parameters + packed.payload)
    return found


if __name__ == "__main__":
    main(parse, seeds())
