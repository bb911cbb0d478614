"""A client's own data in every kind of file and an adapter's configuration."""

import gzip
import io
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from harness import SCRATCH, instrumented, main, one_line

with instrumented():
    from plait.adapters.peft_reading import load_peft_directory
    from plait.data import as_dataset, bounds
    from plait.errors import PlaitError

(SCRATCH / "adapter").mkdir()
NAMES = ("my.jsonl", "my.json", "my.csv", "my.parquet", "my.arrow")
bounds.MOST_BATCH_BYTES = 256 << 20


def parse(data: bytes) -> None:
    for name in NAMES:
        (SCRATCH / name).write_bytes(data)
    (SCRATCH / "adapter" / "adapter_config.json").write_bytes(data)
    for read in (
        *(partial(as_dataset, SCRATCH / name) for name in NAMES),
        lambda: load_peft_directory(SCRATCH / "adapter"),
    ):
        with one_line(PlaitError):
            read()


def tables():
    """A small table as Parquet, plain and packed, and as an Arrow file and stream."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    table = pa.table({"messages": [turns, turns], "n": pa.array([1, None], pa.int32()), "b": [b"x", b"y"]})
    for options in ({"use_dictionary": False, "compression": "none"}, {"compression": "zstd"}):
        out = io.BytesIO()
        pq.write_table(table, out, store_schema=False, **options)
        yield out.getvalue()
    for new, packing in ((pa.ipc.new_file, None), (pa.ipc.new_stream, "zstd")):
        out = io.BytesIO()
        with new(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as writer:
            writer.write_table(table)
        yield out.getvalue()


LINE = b'{"text": "words"}\n'
SEEDS = [
    b'{"text": "words"}\n{"text": "more words", "author": "ada"}\n',
    b'{"prompt": "a", "completion": "b"}\n',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    b'{"text": "x", "label": 3}\n',
    b'[{"text": "words"}, {"text": "more words", "author": "ada"}]',
    b'{"version": 1, "data": [{"instruction": "a", "output": "b"}]}',
    b'text,author\n"words, and ""more""",ada\n\nx,\n',
    b'{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}',
    gzip.compress(LINE, mtime=0),
    pa.compress(LINE, codec="zstd", asbytes=True),
    *tables(),
]

if __name__ == "__main__":
    main(parse, SEEDS)
