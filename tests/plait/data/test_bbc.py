from __future__ import annotations

from pathlib import Path

from plait.data import Record
from plait.data.bbc import read_corpus


def test_a_story_is_read_once_under_the_first_folder_that_has_it(tmp_path: Path) -> None:
    stories = {
        "sport/001.txt": b"\xa35m transfer",
        "sport/002.txt": b"\n",
        "tech/001.txt": b"chips\n",
        "tech/002.txt": b"chips",
        "world/001.txt": b"chips",
    }
    for name, content in stories.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert read_corpus(tmp_path) == [
        Record(text="£5m transfer", label="sport", columns={"topic": "sport"}),
        Record(text="chips", label="tech", columns={"topic": "tech"}),
    ]
