"""A program that does as its first argument says; a stand-in for trainers that fail."""

import json
import struct
import sys
import time
from pathlib import Path

BASE = "62" * 32


def say(**said):
    print(json.dumps(said), flush=True)


def save(path, layout, value):
    header, data = {}, b""
    for name, shape in layout:
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += struct.pack("<f", value) * (size // 4)
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


for line in sys.stdin:
    asked, how = json.loads(line), sys.argv[1]
    if asked["do"] == "describe":
        say(fingerprint=BASE, train_examples=8, train_tokens=80, held_out_examples=4, held_out_tokens=40)
    elif asked["do"] == "evaluate":
        say(losses=[2.0, 1.0, "many" if how == "word" else 3.0, 2.0], counts=[10, 10, 10, 10])
    elif asked["do"] == "abandon":
        say(abandoned=True)
    elif how == "dies":
        sys.exit(3)
    elif how == "hangs":
        time.sleep(600)
    elif how == "garbage":
        print("here you are", flush=True)
    elif how == "error":
        say(error="out of\nmemory")
    elif how == "slow":
        say(progress={"step": 1})
    else:
        layout = asked["layout"][1:] if how == "shape" else asked["layout"]
        save(asked["into"], layout, float("nan") if how == "nan" else 0.5)
        say(examples=8, metrics={"train_loss": float("inf") if how == "infinite" else 1.5, "train_tokens": 80})
