"""The report's "Repeat this run": the command that it prints is run."""

import html
import json
import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from plait.config import RunConfig, config_from_table
from plait.report.answers import repeat_command
from plait.settings.table import read_config_table


class _Stop(Exception):
    """The settings are known; nothing is to be run."""


@pytest.fixture
def settings_of(plait, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """What a command line of `plait` asks for, by the command's own reading of it."""

    def resolve(*words: str) -> RunConfig:
        asked: list[RunConfig] = []

        def prepare(settings: RunConfig, **_: object) -> RunConfig:
            asked.append(settings)
            raise _Stop

        def serve(_directory: object, settings: RunConfig, *_: object, **__: object) -> None:
            prepare(settings)

        with monkeypatch.context() as patch:
            patch.setattr("plait.simulation.execution.prepare", prepare)
            patch.setattr(import_module("server.served_run"), "serve", serve)
            with pytest.raises(_Stop):
                plait(*words)
        return asked[0]

    return resolve


def printed_command(run: Path) -> list[str]:
    """The words of the first command under "Repeat this run", as a shell reads them."""
    page = (run / "report.html").read_text()
    section = page[page.index("Repeat this run") :]
    code = re.search(r"<code>(.*?)</code>", section, re.DOTALL)
    words = shlex.split(html.unescape(re.sub(r"<[^>]+>", "", code[1])))
    assert words[0] == "plait"
    return words[1:]


def adapter_of(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def write_chat(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus {number}?"},
                {"role": "assistant", "content": f"It is {2 * number}, twice {number}."},
            ],
            "person": ("Zoë", "李雷")[number % 2],
        }
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


TRAINER = """
from transformers import Trainer, TrainingArguments

def build(model, tokenizer, data, args):
    return Trainer(model=model, args=TrainingArguments(**args), train_dataset=data)
"""

KINDS = {
    "own data and names": ("--data", "my data/it's.jsonl", "--partition", "natural:person", "--clients", 2),
    "a sample of clients": ("--data", "my.jsonl", "--clients", 3, "--clients-per-round", 2, "--personalize", 0),
    "an adapter to go on from": (
        "--data", "my.jsonl", "--clients", 2, "--init-adapter", "first=0.5", "--rule", "flexlora",
    ),
    "a trainer": ("--data", "my.jsonl", "--clients", 2, "--trainer", "trainer_of_mine:build"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_printed_command_does_the_run_again(plait, jsonl, small, settings_of, kind, monkeypatch):
    home = jsonl.parent
    write_chat(home / "my data" / "it's.jsonl")
    (home / "trainer_of_mine.py").write_text(TRAINER)
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    if "--init-adapter" in KINDS[kind]:
        assert plait("simulate", "--data", "my.jsonl", "--clients", 2, *small, "--out", "first", "--json").code == 0
    ran = plait("simulate", *KINDS[kind], *small, "--out", "run", "--json")
    assert ran.code == 0, ran.err

    words = printed_command(home / "run")
    kept = config_from_table(read_config_table(home / "run" / "config.toml"))
    assert settings_of(*words, "--out", "run-again").model_copy(update={"out": kept.out}) == kept
    if kind != "a sample of clients":  # done again by its settings alone, which are the same
        ran = plait(*words, "--out", "again", "--json")
        assert ran.code == 0, ran.err
        assert adapter_of(home / "again") == adapter_of(home / "run")


def test_a_deployed_run_is_repeated_by_a_server(plait, settings_of, tmp_path):
    given = ("--base", "tiny", "--min-clients", 2, "--rounds", 3, "--keep-updates", "--labels", "a,b")
    deployed = settings_of("server", "--insecure", "--out", tmp_path / "run", *given)
    words = shlex.split(" ".join(repeat_command(deployed.to_table())))
    assert words[:4] == ["plait", "server", "--kit", "plait-server"]
    again = settings_of(*words[1:], "--out", tmp_path / "run")
    assert again == deployed


def test_a_server_takes_no_data_from_a_simulations_settings(settings_of, tmp_path):
    settings = tmp_path / "config.toml"
    settings.write_text('data = "my.jsonl"\npartition = "natural:author"\nreference = "local"\nrounds = 7\n')
    served = settings_of("server", "--insecure", "--out", tmp_path / "run", "--config", settings)
    assert (served.data, served.partition, served.reference, served.rounds) == ("", "", "", 7)
