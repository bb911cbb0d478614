"""The header of a GGUF file: what passes, the gguf package reads, with errors of its own kinds."""

import contextlib
import struct
import tempfile
from pathlib import Path

from gguf import GGUFReader
from harness import instrumented, main

with instrumented():
    from plait.errors import DataError
    from plait.training.gguf_header import read_gguf_header

FILE = Path(tempfile.mkdtemp(dir=Path("/dev/shm") if Path("/dev/shm").is_dir() else None)) / "a.gguf"


def parse(data: bytes) -> None:
    FILE.write_bytes(data)
    try:
        read_gguf_header(FILE)
    except DataError as error:
        if "\n" in str(error) or not str(error).isprintable():
            raise ValueError(f"not one printable line: {error!a}") from error
        return
    with contextlib.suppress(ValueError, LookupError):
        GGUFReader(FILE)


def seeds() -> list[bytes]:
    text = struct.pack("<Q20sIQ5s", 20, b"general.architecture", 8, 5, b"llama")
    count = struct.pack("<Q11sII", 11, b"block_count", 4, 2)
    words = struct.pack("<Q6sIIQQ1sQ2s", 6, b"tokens", 9, 8, 2, 1, b"a", 2, b"bc")
    scores = struct.pack("<Q6sIIQ2f", 6, b"scores", 9, 6, 2, 0.5, 1.5)
    alignment = struct.pack("<Q17sII", 17, b"general.alignment", 4, 32)
    whole = struct.pack("<Q1sIQIQ", 1, b"a", 1, 4, 0, 0)
    packed = struct.pack("<Q1sIQQIQ", 1, b"b", 2, 32, 2, 8, 32)  # Q8_0
    entries = (text, count, words, scores, alignment)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, len(entries)) + b"".join((*entries, whole, packed))
    return [head + bytes(-len(head) % 32 + 32 + 2 * 34), struct.pack("<4sIQQ", b"GGUF", 2, 0, 1) + text]


if __name__ == "__main__":
    main(parse, seeds())
