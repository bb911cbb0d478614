"""The header of a safetensors file."""

import io
import json

from harness import instrumented, main

with instrumented():
    from plait.adapters.safetensors import read_header


def parse(data: bytes) -> None:
    read_header(io.BytesIO(data), size=len(data))


def seeds() -> list[bytes]:
    headers = [
        {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}},
        {"__metadata__": {"format": "pt"}, "b": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}},
        {
            "x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
            "y": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        },
    ]
    texts = [json.dumps(header).encode() for header in headers]
    return [len(text).to_bytes(8, "little") + text + bytes(size) for text, size in zip(texts, (24, 2, 8), strict=True)]


if __name__ == "__main__":
    main(parse, seeds())
