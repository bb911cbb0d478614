"""An envelope: as given, and once more with the digest that its payload needs to pass the first check."""

from harness import golden, instrumented, main

with instrumented():
    import numpy as np

    from plait.adapters import Layout
    from plait.errors import PeerError
    from plait.v1 import envelope_pb2 as pb
    from plait.wire.envelope import join_frame, open_envelope, payload_digest, read_envelope, split_frame

LAYOUT = Layout.of({"q_proj.lora_A": (2, 3), "q_proj.lora_B": (3, 2)})


def parse(data: bytes) -> None:
    try:
        read_envelope(data, max_bytes=4096)
        check(data)
    except PeerError:
        check(with_digest(data))


def check(data: bytes) -> None:
    flat = open_envelope(data, layout=LAYOUT).delta.flat
    if flat.shape != (LAYOUT.size,) or not np.isfinite(flat).all():
        raise ValueError("not a correct tensor")


def with_digest(data: bytes) -> bytes:
    frame = split_frame(data)
    try:
        header = pb.Header.FromString(bytes(frame.header))
    except Exception as error:
        raise PeerError("no header") from error
    header.payload_digest = payload_digest(header.codec & 0x7FFFFFFF, header.codec_parameters, frame.payload)
    return join_frame(header.SerializeToString(deterministic=True), frame.payload)


def partial() -> bytes:
    """An update of the first of both tensors."""
    frame = split_frame(golden("update_fp32.")[0])
    header = pb.Header.FromString(bytes(frame.header))
    header.codec, header.codec_parameters = pb.CODEC_FP32_PARTIAL, b"\1"
    return with_digest(join_frame(header.SerializeToString(deterministic=True), frame.payload[: 4 * 6]))


if __name__ == "__main__":
    main(parse, [*golden("update"), *golden("broadcast"), partial()])
