from __future__ import annotations

import io
import json
import os

from client.journal import Journal, Style
from client.process import make_room
from client.settings import check_settings, memory_folder
from client.task import OfferedRun


def test_a_node_says_what_earlier_runs_take_and_removes_what_could_be_sent_again(tmp_path) -> None:
    settings = check_settings(server="localhost:1", data="ada.jsonl", insecure=True, state=tmp_path)
    for number in range(6):
        folder = memory_folder(tmp_path, number, "ada")
        folder.mkdir(parents=True)
        (folder / ("own" if number == 1 else "adapter")).write_bytes(bytes(1000))
        os.utime(folder, (number, number))
    screen = io.StringIO()
    run = OfferedRun(run_id=9, config={}, base_fingerprint=b"")
    make_room(run, settings, Journal(Style.JSON, screen))
    (said,) = map(json.loads, screen.getvalue().splitlines())
    assert (said["event"], said["runs"], said["bytes"]) == ("state", 4, 4000)
    assert f"'{tmp_path}' holds 4.0 kB of earlier runs (4)" in said["text"]
    assert [memory_folder(tmp_path, number, "ada").exists() for number in range(6)] == [False, True, False] + 3 * [True]
