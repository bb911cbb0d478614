"""A task, with a receiver's bounds."""

from harness import golden, instrumented, main

with instrumented():
    from plait.wire.messages import decode_task, encode_task


def parse(data: bytes) -> None:
    if b"".join(encode_task(decode_task(data, max_bytes=4096))) != data:
        raise ValueError("what was read is written otherwise")


if __name__ == "__main__":
    main(parse, golden("task"))
