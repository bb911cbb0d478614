"""The golden bytes, through the writer, the reader, and a decoder that shares no code with either; and a whole run."""

import json
import runpy
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from plait.errors import PeerError
from plait.wire.envelope import open_envelope
from plait.wire.messages import decode_reply, decode_task

FOLDER = Path(__file__).parents[2] / "vectors"
WRITER = runpy.run_path(str(FOLDER / "write_vectors.py"))
written = cache(WRITER["vectors"])
NAMES = sorted(path.stem for path in FOLDER.glob("*.hex"))


def golden(name: str) -> tuple[bytes, dict]:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text()), json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.slow
def test_every_golden_message_has_bytes_and_meaning():
    assert sorted(written()) == NAMES == sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_writer_makes_the_golden_bytes(name):
    assert written()[name] == golden(name)[0]


@pytest.mark.parametrize("name", sorted(WRITER["ENVELOPES"]))
def test_reader_understands_the_golden_envelope(name):
    data, said = golden(name)
    header, delta, *_ = WRITER["ENVELOPES"][name]
    opened = open_envelope(data, layout=delta.layout)
    assert opened.header == header
    assert [f"{word:08x}" for word in opened.delta.flat.view(np.uint32)] == said["envelope"]["values"]


@pytest.mark.parametrize("name", sorted(WRITER["TASKS"]))
def test_reader_understands_the_golden_task(name):
    data, _ = golden(name)
    texts = {sha256(WRITER["SETTINGS"].text.encode()).digest(): WRITER["SETTINGS"].text}
    assert decode_task(data, max_bytes=len(data), held=lambda digest: texts[digest]) == WRITER["TASKS"][name]


@pytest.mark.parametrize("name", sorted(WRITER["REPLIES"]))
def test_reader_understands_the_golden_reply(name):
    data, _ = golden(name)
    assert decode_reply(data, max_bytes=len(data)) == WRITER["REPLIES"][name]


@pytest.mark.parametrize("name", NAMES)
def test_independent_decoder_agrees(name):
    data, said = golden(name)
    assert WRITER["meaning"](name, data) == said


@pytest.mark.parametrize("path", sorted((FOLDER / "derived").iterdir()), ids=lambda path: path.stem)
def test_what_follows_from_what_is_as_written(path):
    made = WRITER["derived"]()[path.stem]
    # zlib's bytes are each version's own; what they hold is tested by every implementation.
    said = json.loads(path.read_text())
    if path.stem == "layout":
        made["given"]["zlib"] = said["given"]["zlib"]
    if path.stem == "rotation":
        # The order in which a processor adds up shows in the last of four decimals.
        assert made["expected"]["rotated"] == pytest.approx(said["expected"]["rotated"], abs=2e-4)
        made["expected"]["rotated"] = said["expected"]["rotated"]
    assert json.loads(json.dumps(made)) == said


def test_every_derivation_is_written():
    assert sorted(WRITER["derived"]()) == sorted(path.stem for path in (FOLDER / "derived").iterdir())


def test_what_must_be_refused_is():
    wrong = WRITER["derived"]()["errors"]["given"]
    for each in wrong.values():
        data = bytes.fromhex(each["bytes"])
        read = decode_task if each["kind"] == "task" else open_envelope
        bound = {"max_bytes": len(data)} if each["kind"] == "task" else {"layout": WRITER["LAYOUT"]}
        with pytest.raises(PeerError):
            read(data, **bound)


@pytest.mark.slow
def test_a_run_over_grpc_is_recorded_with_the_same_bytes():
    writer = runpy.run_path(str(FOLDER / "write_run.py"))
    assert writer["text_of"](writer["recorded"]()) == (FOLDER / "whole" / "minimal.json").read_text()
