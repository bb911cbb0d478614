from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from plait.features.serving.follow import Follower
from plait.files import directory_written_aside

Start = Callable[..., Any]
PROMPT = "def add(left, right):\n    return"


def put_round(run: Path, adapter: Path) -> None:
    """As a run writes its adapter."""
    run.mkdir(exist_ok=True)
    with directory_written_aside(run / "adapter") as aside:
        for file in adapter.iterdir():
            shutil.copyfile(file, aside / file.name)


def test_the_newest_round_is_served_as_it_comes(
    start: Start, adapters: dict[str, Path], alone: Callable[..., str], tmp_path: Path
) -> None:
    server, said = start({}), []
    follower = Follower(server.catalogue, "now", tmp_path / "run", said.append)
    assert not follower.look()
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    for name in ("formal", "casual"):
        put_round(tmp_path / "run", adapters[name])
        assert follower.look()
        assert not follower.look()
        answer = client.completions.create(
            model="now", prompt=PROMPT, max_tokens=10, temperature=0, extra_body={"ignore_eos": True}
        )
        assert answer.choices[0].text == alone(adapters[name], PROMPT, 10)
    assert len(said) == 2


def test_a_round_that_cannot_be_served_leaves_the_one_before_and_is_told_once(
    start: Start, adapters: dict[str, Path], write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    catalogue, said = start({}).catalogue, []
    follower = Follower(catalogue, "now", tmp_path / "run", said.append)
    put_round(tmp_path / "run", adapters["formal"])
    follower.look()
    before = catalogue.find("now")
    dora = write_adapter(tmp_path / "dora", seed=0, r=2, target_modules=["q_proj"], use_dora=True)
    put_round(tmp_path / "run", dora)
    assert not follower.look()
    assert not follower.look()
    assert catalogue.find("now") is before
    assert len(said) == 2
    assert "is DoRA" in said[1]


def test_the_thread_looks_by_itself(start: Start, adapters: dict[str, Path], tmp_path: Path) -> None:
    import threading

    told = threading.Event()
    catalogue = start({}).catalogue
    follower = Follower(catalogue, "now", tmp_path / "run", lambda _: told.set())
    follower.start()
    put_round(tmp_path / "run", adapters["formal"])
    assert told.wait(60)
    follower.close()
    assert catalogue.find("now") is not None
