from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from plait.adapters import AdapterState, Task, save_peft_directory
from plait.adapters.methods import AdapterRequest
from plait.training.bases import locate_base
from plait.training.blueprint import design, read_base_config
from tests.plait.serving import Start, serving

Plait = Callable[..., Any]
PROMPT = "def add(left, right):\n    return"


def write_run(run: Path, seed: int) -> Path:
    base = locate_base("tiny")
    config = read_base_config(base.directory, Task.CAUSAL_LM)
    spec = design(config, AdapterRequest(rank=2, alpha=4), task=Task.CAUSAL_LM, seed=0).spec
    values = np.random.default_rng(seed).normal(0, 0.2, spec.layout.size).astype(np.float32)
    run.mkdir(exist_ok=True)
    state = AdapterState(spec.layout, values)
    save_peft_directory(run / "adapter", spec=spec, state=state, base=base.reference, card="x")
    return run


@pytest.fixture
def started() -> Iterator[Start]:
    with serving("serve") as start:
        yield start


@pytest.mark.slow
def test_adapters_are_served_by_name_and_a_run_is_followed(started: Start, tmp_path: Path) -> None:
    one, two, run = (write_run(tmp_path / name, seed) for seed, name in enumerate(("one", "two", "now")))
    process, url = started("--adapters", f"a={one}", f"b={two / 'adapter'}", "--run", run, "--dtype", "float32")
    with openai.OpenAI(base_url=url, api_key="none") as client:
        names = [model.id for model in client.models.list()]
        assert names[1:] == ["a", "b", "now"]

        def text(name: str) -> str:
            asked = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, temperature=0)
            return asked.choices[0].text

        assert len({text(name) for name in names}) == 4
        before = text("now")
        # The run goes on to what adapter b holds.
        shutil.rmtree(run / "adapter")
        write_run(run, seed=1)
        deadline = time.monotonic() + 60
        while text("now") == before and time.monotonic() < deadline:
            time.sleep(0.1)
        assert text("now") == text("b")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_key_is_asked_for(started: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_API_KEY", "secret")
    _, url = started("--base", "tiny")
    assert httpx.get(f"{url}/models").status_code == 401
    answer = httpx.get(f"{url}/models", headers={"Authorization": "Bearer secret"})
    assert [model["id"] for model in json.loads(answer.text)["data"]] == ["tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["fedavg", "flora"])
def test_a_run_publishes_its_rounds_into_a_running_server(
    plait: Plait, started: Start, jsonl: Path, tmp_path: Path, rule: str
) -> None:
    _, url = started("--base", "tiny", "--dtype", "float32")
    places = f"{tmp_path / 'served'},{url},http://127.0.0.1:9"
    done = plait(
        "simulate", "--data", jsonl, "--base", "tiny", "--clients", 2, "--rounds", 2, "--local-steps", 2,
        "--batch-size", 2, "--seq-len", 32, "--rank", 2, "--learning-rate", 1e-2, "--dtype", "float32",
        "--rule", rule, "--publish", places, "--out", tmp_path / "now", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    latest = tmp_path / "served" / "latest"
    assert latest.resolve().name == "round-000002"
    weights = "adapter_model.safetensors"
    assert (latest / weights).read_bytes() == (tmp_path / "now" / "adapter" / weights).read_bytes()
    with openai.OpenAI(base_url=url, api_key="none") as client:
        assert client.models.retrieve("now").root == str(latest.resolve())
    # No server was at the third place: told for each round, and the run went on.
    events = [json.loads(line) for line in (tmp_path / "now" / "ledger.jsonl").read_text().splitlines()]
    failed = [event["round"] for event in events if event["event"] == "publish_failed"]
    assert failed[:2] == [1, 2]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "the base is missing; give --base"),
        (("--adapters", "x"), 2, "adapter is 'x', expected NAME=DIRECTORY"),
        (("a=x", "a=y"), 2, "two adapters are called 'a'"),
        (("a=/nowhere",), 2, "is not a directory"),
        (("now=x", "--run", "now"), 2, "'now' names both an adapter and a run"),
        (("--base", "tiny", "--listen", "8000"), 2, "--listen is '8000', expected HOST:PORT"),
        (("--base", "tiny", "--context", "5000"), 2, "--context is 5000, expected at most 1024"),
    ],
)
def test_what_cannot_be_served_is_refused_before_the_server_starts(
    plait: Plait, options: tuple[object, ...], code: int, message: str
) -> None:
    done = plait("serve", *(options if "--listen" in options else (*options, "--listen", "127.0.0.1:0")))
    assert (done.code, message in done.err) == (code, True), done.err


def test_a_port_that_is_taken_is_told_before_the_base_is_loaded(plait: Plait) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = plait("serve", "--base", "tiny", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.code == 1
    assert "cannot listen on" in done.err
    assert "loading base" not in done.err
