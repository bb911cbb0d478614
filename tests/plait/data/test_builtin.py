import subprocess
import sys

import pytest

from plait.data import BUILTINS, Record, RecordKind, as_dataset
from plait.data.builtin import read_tree
from plait.data.packages import read_conversations, read_stories
from plait.errors import ConfigError

LONG = "# a comment that fills two hundred bytes\n" * 6
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


def test_an_unknown_name_gives_the_nearest_and_all():
    with pytest.raises(ConfigError) as caught:
        as_dataset("chaterbot", progress=print)
    assert str(caught.value).endswith("; did you mean 'chatterbot'?")
    assert all(name in str(caught.value) for name in BUILTINS)


@pytest.mark.slow
def test_importing_the_room_imports_nothing_slow():
    code = "import sys, plait.data; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"datasets", "flwr_datasets", "numpy", "torch", "yaml"}.intersection(done.stdout.split())


@pytest.mark.slow
def test_chatterbot_is_fetched_from_the_registry_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path))
    said: list[str] = []
    dataset = as_dataset("chatterbot", progress=said.append)
    assert said
    assert dataset.kind is RecordKind.PROMPT
    assert len(dataset.records) > 7000
    assert len(set(dataset.column("language"))) == 28
    assert {dataset.natural_column, "topic"} <= set(dataset.column_names)
    said.clear()
    assert as_dataset("chatterbot", progress=said.append) == dataset
    assert not said


def test_a_story_is_read_once_under_the_first_folder_that_has_it(tmp_path):
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
    assert read_stories(tmp_path) == [
        Record(text="£5m transfer", label="sport", columns={"topic": "sport"}),
        Record(text="chips", label="tech", columns={"topic": "tech"}),
    ]


def test_a_conversation_becomes_its_first_line_and_the_answer(tmp_path):
    for language in ("english", "dutch"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "Greetings.yml").write_text(GREETINGS, encoding="utf-8")
    assert read_conversations(tmp_path) == [
        Record(prompt=prompt, completion=completion, columns={"language": language, "topic": "greetings"})
        for language in ("dutch", "english")
        for prompt, completion in (("Hello", "Hi"), ("Is it true?", "No"))
    ]


def test_the_standard_library_has_a_client_for_each_package():
    dataset = as_dataset("stdlib", progress=print)
    assert dataset.kind is RecordKind.TEXT
    assert dataset.natural_column == "package"
    packages = dataset.column("package")
    assert {"asyncio", "json", "email", "ast"} < set(packages)
    assert len(set(packages)) > 100
    assert not {"test", "site-packages", "sitecustomize"} & set(packages)
    paths = dataset.column("path")
    assert "json/decoder.py" in paths
    assert len(set(paths)) == len(paths)


def test_only_source_worth_learning_from_is_read_in_path_order(tmp_path):
    kept = ("b/__init__.py", "b/deep/x.py", "a.py")
    left_out = ("b/tests/x.py", "b/idle_test/x.py", "b/__pycache__/x.py", "site-packages/y.py", "c.py", "b/notes.txt")
    for name in kept + left_out:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LONG + f"# {name}\n")
    (tmp_path / "b" / "short.py").write_text("x = 1\n")
    (tmp_path / "b" / "latin.py").write_bytes(LONG.encode() + b"# caf\xe9\n")
    assert read_tree(tmp_path, packages=frozenset({"a", "b"})) == [
        Record(text=LONG + f"# {name}\n", columns={"package": name[0], "path": name})
        for name in ("a.py", "b/__init__.py", "b/deep/x.py")
    ]
