"""A reply, with a receiver's bounds."""

from harness import golden, instrumented, main

with instrumented():
    from plait.wire.messages import decode_reply, encode_reply


def parse(data: bytes) -> None:
    if encode_reply(decode_reply(data, max_bytes=4096)) != data:
        raise ValueError("what was read is written otherwise")


if __name__ == "__main__":
    main(parse, golden("reply"))
