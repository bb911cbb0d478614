from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from transformers import AutoModelForCausalLM

from client.base import KeptBase
from client.contexts import ContextParticipants
from client.settings import memory_folder
from plait.config import RunConfig
from plait.run import blueprint_of, resolve
from plait.settle import settle
from plait.training.bases import locate_base
from plait.trust.keys import NodeKey, verify
from plait.wire.messages import ClientCard, DescribeTask, Refusal, decode_reply, encode_task


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "my.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"number {number} of some lines\n" * 4}) + "\n" for number in range(40))
    )
    return path


CONFIG = RunConfig(base="tiny", seq_len=32, rank=2, device="cpu", dtype="float32")


def context_of(node_config: dict[str, str], run: int = 7, config: RunConfig = CONFIG) -> Context:
    table = config.to_table()
    if data := node_config.get("data"):
        # The run is smaller than what the default policy takes.
        policy = Path(data).with_name("policy.toml")
        policy.write_text("min-tokens = 128\n")
        node_config = {**node_config, "policy": str(policy)}
    return Context(run_id=run, node_id=5, node_config=node_config, state=RecordDict(), run_config=table)  # type: ignore[arg-type]


def described(context: Context, config: RunConfig = CONFIG) -> tuple[bytes, str]:
    """What a node says of itself, and the spec that it was told."""
    spec = blueprint_of(settle(config), locate_base("tiny").directory).spec
    task = b"".join(encode_task(DescribeTask(settle(config).plan.settings, spec.text)))
    return ContextParticipants()(context).answer(task), spec.text


def test_a_node_keeps_its_state_on_disk_under_run_and_name(data: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    context = context_of({"data": str(data), "name": "ada", "state": str(state)})
    answer, spec = described(context)
    card = decode_reply(answer, max_bytes=1 << 20)
    assert isinstance(card, ClientCard)
    assert card.client == "ada"
    assert (memory_folder(state, 7, "ada") / "spec").read_text() == spec
    assert len(context.state) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "labels", "told"),
    [
        ({"text": "a few words of text " * 9, "author": "CANARY"}, "", {}),
        (
            {"text": "a few words of text, and some more", "label": "sport", "author": "CANARY"},
            "sport,tech",
            {"sport": 40},
        ),
    ],
)
def test_of_its_own_data_a_node_tells_no_more_than_the_runs_labels(
    tmp_path: Path, record: dict[str, str], labels: str, told: dict[str, int]
) -> None:
    path = tmp_path / "my.jsonl"
    records = [{**record, "text": f"{record['text']} {number}"} for number in range(40)]
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    config = CONFIG.model_copy(update={"labels": labels})
    context = context_of({"data": str(path), "name": "ada"}, config=config)
    answer, _ = described(context, config)
    card = decode_reply(answer, max_bytes=1 << 20)
    assert isinstance(card, ClientCard)
    assert card.histogram == told
    assert b"CANARY" not in answer


@pytest.mark.slow
def test_a_label_that_the_run_does_not_know_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    path.write_text((json.dumps({"text": "some words", "label": "CANARY"}) + "\n") * 40)
    config = CONFIG.model_copy(update={"labels": "sport,tech"})
    context = context_of({"data": str(path), "name": "ada"}, config=config)
    answer, _ = described(context, config)
    reply = decode_reply(answer, max_bytes=1 << 20)
    assert isinstance(reply, Refusal)
    assert "not one of the run's labels: sport, tech" in reply.detail
    assert b"CANARY" not in answer


@pytest.mark.slow
def test_updates_are_signed_with_the_nodes_key(data: Path, tmp_path: Path) -> None:
    key = NodeKey.generate()
    key.save(tmp_path / "node.key")
    participant = ContextParticipants()(
        context_of({"data": str(data), "name": "ada", "key": str(tmp_path / "node.key")})
    )
    sign = participant.way.saying.sign
    assert sign is not None
    assert verify(key.public_bytes, sign(b"update"), b"update")
    assert ContextParticipants()(context_of({"data": str(data)})).way.saying.sign is None


@pytest.mark.slow
def test_the_base_stays_in_memory_for_the_next_run_on_it_whatever_its_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, honest = 0, AutoModelForCausalLM.from_pretrained

    def counted(*args: object, **how: object) -> object:
        nonlocal loads
        loads += 1
        return honest(*args, **how)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    kept = KeptBase()
    for settings in ({"rank": 4}, {"rank": 8, "seq_len": 1024}, {"method": "vera", "trainer": "mine:build"}):
        run = resolve(settle(RunConfig(base="tiny", device="cpu", dtype="float32", **settings)))
        base = kept.of(run)
        assert base.identity == run.load_base().identity, "results are named by this run's settings, not by the last's"
        adapter = run.ranks.master
        base.carrying(adapter.spec, adapter.initial)
    assert loads == 1
