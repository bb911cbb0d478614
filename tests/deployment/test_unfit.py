"""A client that cannot take part: the operator is told who, why and what the run waits for; once fixed, it returns."""

import json
import signal

import pytest

pytestmark = pytest.mark.slow

WORDS = "data has label records, expected text, prompts or messages"


def test_a_client_with_data_of_another_kind_is_named_everywhere_and_takes_part_once_they_are_mended(
    deployment, federation
):
    own = federation / "carol.jsonl"
    texts = [json.loads(line)["text"] for line in own.read_text().splitlines()]
    labelled = deployment.folder / "labelled.jsonl"
    labelled.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts))
    deployment.serve("--rounds", "1")
    for name, data in (("alice", None), ("bob", None), ("carol", labelled)):
        deployment.join(name, data=data)

    unfit = f"cannot take part carol: {WORDS}"
    deployment.until(lambda: all(text in deployment.printed("server") for text in ("still missing: 1", unfit)))
    joined = [line for line in deployment.printed("server").splitlines() if line.startswith("joined: ")]
    assert all(any(name in line for line in joined) for name in ("alice", "bob"))
    assert f"unusable data: {WORDS}" in deployment.printed("carol")
    shown = " ".join(deployment.status().split())
    assert "Cannot take part" in shown
    assert "unusable-data" in shown
    said = json.loads(deployment.status("--json"))
    assert said["unfit"] == [{"name": "carol", "reason": "unusable-data", "detail": WORDS}]
    assert said["state"] == "waiting for clients: 2 of 3 are ready, 1 more cannot take part"

    deployment.signal("carol", signal.SIGKILL)
    deployment.join("carol", data=own)
    deployment.finish()
    (finished,) = deployment.events("round_finished")
    assert finished["received"] == 3
