from __future__ import annotations

from pathlib import Path

from plait.data import Record
from plait.data.chatterbot import read_corpus

GREETINGS = """
categories:
- greetings
conversations:
- - Hello
  - Hi
  - How are you?
- - Is it true?
  - No
- - Alone
- not a conversation
- - Empty answer
  - ''
"""


def test_a_conversation_becomes_its_first_line_and_the_answer(tmp_path: Path) -> None:
    for language in ("english", "dutch"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "Greetings.yml").write_text(GREETINGS, encoding="utf-8")
    assert read_corpus(tmp_path) == [
        Record(prompt=prompt, completion=completion, columns={"language": language, "topic": "greetings"})
        for language in ("dutch", "english")
        for prompt, completion in (("Hello", "Hi"), ("Is it true?", "No"))
    ]
