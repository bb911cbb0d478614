from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plait.errors import PeerError
from plait.exporting.publish import load_into_vllm
from plait.features.serving.app import Access
from plait.hosts import AllowedHosts

Start = Callable[..., Any]
PROMPT = "def add(left, right):\n    return"


def client_of(server: Any, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.mark.slow
def test_an_unmodified_client_gets_from_three_adapters_at_once_what_peft_writes_alone(
    start: Start, adapters: dict[str, Path], alone: Callable[..., str]
) -> None:
    server = start(adapters)
    prompts = (PROMPT, "import os", "class Node:\n    def __init__(self, value):\n")
    asked = [(name, prompt) for prompt in prompts for name in ("tiny", *adapters)]

    async def ask() -> list[openai.types.Completion]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(
                *(
                    client.completions.create(
                        model=name, prompt=prompt, max_tokens=16, temperature=0, extra_body={"ignore_eos": True}
                    )
                    for name, prompt in asked
                )
            )

    steps = server.engine.steps
    answers = asyncio.run(ask())
    for (name, prompt), answer in zip(asked, answers, strict=True):
        assert answer.choices[0].text == alone(adapters.get(name), prompt, 16), (name, prompt)
        assert (answer.model, answer.choices[0].finish_reason) == (name, "length")
        assert answer.usage.completion_tokens == 16
    assert len({answer.choices[0].text for answer in answers[:4]}) == 4
    # Together: alone they would have taken 12 times 16 steps.
    assert server.engine.steps - steps < 12 * 16 / 2


@pytest.mark.slow
def test_a_stream_brings_the_same_text_in_pieces(start: Start, adapters: dict[str, Path]) -> None:
    client = client_of(start(adapters))
    asked = {"model": "formal", "prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert len(pieces) > 3
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (pieces[-1].choices, pieces[-1].usage) == ([], whole.usage)


def test_a_chat_is_answered_and_streamed(start: Start, adapters: dict[str, Path], tiny: Any) -> None:
    client = client_of(start(adapters))
    messages = [{"role": "user", "content": [{"type": "text", "text": "write "}, {"type": "text", "text": "code"}]}]
    whole = client.chat.completions.create(model="casual", messages=messages, max_completion_tokens=12, temperature=0)
    same = [{"role": "user", "content": "write code"}]
    pieces = list(
        client.chat.completions.create(model="casual", messages=same, max_tokens=12, temperature=0, stream=True)
    )
    assert whole.choices[0].message.role == pieces[0].choices[0].delta.role == "assistant"
    assert whole.choices[0].message.content == "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert whole.choices[0].message.content


def test_several_prompts_and_choices_are_numbered_prompt_by_prompt(start: Start, adapters: dict[str, Path]) -> None:
    client = client_of(start(adapters))
    asked = {"model": "terse", "max_tokens": 8, "temperature": 0.9, "seed": 5}
    both = client.completions.create(prompt=[PROMPT, "import os"], n=2, **asked)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    alone = client.completions.create(prompt="import os", n=2, **asked)
    assert [choice.text for choice in both.choices[2:]] == [choice.text for choice in alone.choices]
    assert alone.choices[0].text != alone.choices[1].text


def test_tokens_are_taken_as_a_prompt(start: Start, adapters: dict[str, Path]) -> None:
    server = start(adapters)
    client = client_of(server)
    asked = {"model": "formal", "max_tokens": 8, "temperature": 0}
    tokens = list(server.engine.encode(PROMPT))
    texts = [client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in (PROMPT, tokens, [tokens])]
    assert len(set(texts)) == 1


def test_models_are_listed_with_their_parent(start: Start, adapters: dict[str, Path]) -> None:
    client = client_of(start(adapters))
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["tiny", *adapters]
    assert models["formal"].parent == "tiny"
    assert client.models.retrieve("formal").root == str(adapters["formal"])
    with pytest.raises(openai.NotFoundError, match="expected one of tiny, formal"):
        client.models.retrieve("missing")


@pytest.mark.slow
def test_adapters_come_and_go_as_with_vllm(start: Start, adapters: dict[str, Path], alone: Callable[..., str]) -> None:
    server = start({})
    client = client_of(server)
    for name in ("formal", "casual"):
        # The name stays, the adapter changes.
        load_into_vllm(server.url, name="newest", adapter=adapters[name])
        answer = client.completions.create(
            model="newest", prompt=PROMPT, max_tokens=10, temperature=0, extra_body={"ignore_eos": True}
        )
        assert answer.choices[0].text == alone(adapters[name], PROMPT, 10)
    again = httpx.post(
        f"{server.url}/v1/load_lora_adapter", json={"lora_name": "newest", "lora_path": str(adapters["terse"])}
    )
    assert (again.status_code, "has already been loaded" in again.text) == (400, True)
    for expected in (200, 404):
        gone = httpx.post(f"{server.url}/v1/unload_lora_adapter", json={"lora_name": "newest"})
        assert gone.status_code == expected
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="newest", prompt=PROMPT)


def test_an_adapter_that_does_not_fit_is_refused_as_a_bad_request(start: Start, tmp_path: Path) -> None:
    server = start({})
    with pytest.raises(
        PeerError, match=r"refuses adapter 'x' \(status 400\).*holds no adapter that this server can serve"
    ):
        load_into_vllm(server.url, name="x", adapter=tmp_path / "nothing")


@pytest.mark.slow
def test_a_stop_string_and_a_wrong_wish(start: Start, adapters: dict[str, Path]) -> None:
    client = client_of(start(adapters))
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, temperature=0).choices[0].text
    cut = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, temperature=0, stop=whole[5:8])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (whole[: whole.index(whole[5:8])], "stop")
    with pytest.raises(openai.BadRequestError, match="logprobs is 3, which this server does not support"):
        client.completions.create(model="tiny", prompt=PROMPT, logprobs=3)
    with pytest.raises(openai.BadRequestError, match="expected at most 1024, the context"):
        client.completions.create(model="tiny", prompt=PROMPT, max_tokens=5000)


@pytest.mark.parametrize(
    ("headers", "content", "message"),
    [
        ({"content-type": "text/plain"}, b'{"model": "tiny", "prompt": "x"}', "content-type is not application/json"),
        ({"content-type": "application/json"}, b"{", "is not JSON"),
        ({"content-type": "application/json"}, b'{"model": 1, "model": 2}', "twice"),
        ({"content-type": "application/json"}, b"x" * (5 << 20), "longer than"),
    ],
)
def test_a_body_that_is_none_is_refused(start: Start, headers: dict[str, str], content: bytes, message: str) -> None:
    answer = httpx.post(f"{start({}).url}/v1/completions", headers=headers, content=content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ],
)
def test_a_page_of_another_site_gets_nothing_not_even_under_a_name_that_leads_here(
    start: Start, adapters: dict[str, Path], headers: dict[str, str]
) -> None:
    server = start(adapters)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    for method, path in (("GET", "/v1/models"), ("GET", "/health"), ("POST", "/v1/completions"), ("POST", "/nowhere")):
        answer = httpx.request(method, f"{server.url}{path}", headers=headers, json=body if method == "POST" else None)
        assert answer.status_code == 403, path
        assert "--allowed-hosts" in answer.json()["error"]["message"]
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    named = start({}, access=Access(hosts=AllowedHosts.of("127.0.0.1", ["evil.example"])))
    assert httpx.get(f"{named.url}/v1/models", headers={**headers, "origin": "http://evil.example"}).status_code == 200


def test_nothing_about_a_directory_is_told(start: Start, adapters: dict[str, Path], tmp_path: Path) -> None:
    server = start({})
    broken = tmp_path / "broken"
    shutil.copytree(adapters["formal"], broken)
    (broken / "adapter_model.safetensors").write_bytes(b"no weights")
    (tmp_path / "closed").mkdir(mode=0o000)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    answers = {
        place: httpx.post(f"{server.url}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": place})
        for place in (
            *(str(tmp_path / name) for name in ("broken", "closed", "file", "empty", "nothing")),
            "/", "/etc/passwd", "~", "..", "\0", "x" * 5000,
        )
    }  # fmt: skip
    assert {answer.status_code for answer in answers.values()} == {400}
    assert len({answer.text for answer in answers.values()}) == 1
    there = {"lora_name": "x", "lora_path": str(adapters["formal"])}
    assert httpx.post(f"{server.url}/v1/load_lora_adapter", json=there).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", r'{"model": "tiny", "prompt": "\ud800"}'),
        ("completions", r'{"model": "\ud800", "prompt": "x"}'),
        ("completions", r'{"model": "tiny", "prompt": "x", "stop": "\ud800", "stream": true}'),
        ("completions", r'{"model": "tiny", "prompt": "x", "\udfff": 1}'),
        ("chat/completions", r'{"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]}'),
        ("chat/completions", r'{"model": "tiny", "messages": [{"role": "\ud800", "content": "x"}]}'),
        ("load_lora_adapter", r'{"lora_name": "x", "lora_path": "\ud800"}'),
        ("unload_lora_adapter", r'{"lora_name": "\ud800"}'),
        ("completions", '{"model": "tiny", "prompt": []}'),
        ("completions", '{"model": "tiny", "prompt": [[]]}'),
        ("completions", '{"model": "tiny", "prompt": [[1], []]}'),
        ("completions", '{"model": "tiny", "prompt": [[]], "stream": true}'),
        ("completions", '{"model": "tiny", "prompt": ""}'),
    ],
)
def test_half_a_surrogate_pair_and_no_tokens_are_bad_requests_and_the_connection_stays(
    start: Start, path: str, body: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start({})
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.connect()
    kept = connection.sock
    connection.request("POST", f"/v1/{path}", body=body, headers={"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.loads(answer.read())["error"]["type"] == "invalid_request_error"
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 200
    assert connection.sock is kept
    connection.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_temperature_next_to_nothing_takes_the_likeliest(start: Start) -> None:
    client = client_of(start({}))
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8}
    texts = {client.completions.create(temperature=each, **asked).choices[0].text for each in (0, 1e-320, 1e-5)}
    assert len(texts) == 1


@pytest.mark.slow
def test_without_the_key_nothing_is_answered(start: Start, adapters: dict[str, Path]) -> None:
    server = start(adapters, access=Access(api_key="right"))
    with pytest.raises(openai.AuthenticationError):
        client_of(server, "wrong").models.list()
    assert client_of(server, "right").models.list().data[0].id == "tiny"
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_server_that_strangers_reach_reads_no_directories_for_them(start: Start, adapters: dict[str, Path]) -> None:
    server = start({}, access=Access(may_load=False))
    body = {"lora_name": "x", "lora_path": str(adapters["formal"])}
    answer = httpx.post(f"{server.url}/v1/load_lora_adapter", json=body)
    assert answer.status_code == 403
    assert "--api-key" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_makes_room_for_others(start: Start, stream: bool) -> None:
    server = start({}, rows=1)
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1000, "ignore_eos": True, "stream": stream})
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body.encode())
        )
        while not server.engine.busy:
            time.sleep(0.01)
    answer = client_of(server).completions.create(model="tiny", prompt="x", max_tokens=2)
    assert answer.usage.completion_tokens <= 2
    assert not server.engine.busy


@pytest.mark.slow
def test_a_full_queue_is_told_as_such(start: Start) -> None:
    server = start({}, rows=1, waiting=1)
    client = client_of(server)
    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(
                client.completions.create, model="tiny", prompt="x", max_tokens=200, extra_body={"ignore_eos": True}
            )
            for _ in range(6)
        ]
        errors = [future.exception() for future in futures]
    refused = [error for error in errors if error is not None]
    assert refused
    assert all(isinstance(error, openai.InternalServerError) and error.status_code == 503 for error in refused)


def test_a_failure_of_the_model_is_an_error_and_not_an_answer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start({})

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(server.engine, "_forward", fail)
    client = client_of(server)
    with pytest.raises(openai.InternalServerError, match="the model failed: out of luck"):
        client.completions.create(model="tiny", prompt="x")
    with pytest.raises(openai.APIError, match="the model failed: out of luck"):
        list(client.completions.create(model="tiny", prompt="x", stream=True))
