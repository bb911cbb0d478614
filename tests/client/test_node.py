import threading

import pytest

from client.settings import memory_folder
from client.worker import MOST_WAITING
from plait.errors import PeerError, RunInterrupted
from plait.policy import Policy
from plait.v1 import federation_pb2 as pb
from tests.waiting import until

BODY = bytes(range(256)) * 40


def test_a_node_enrols_does_a_task_and_leaves_when_the_run_is_over(federation, held_app, ready_node):
    assert (federation.hellos[0].name, federation.hellos[0].protocol) == ("ada", 1)
    ready = federation.readies[0]
    assert (ready.methods, ready.memory_bytes, ready.device) == (["lora"], 8_000_000_000, "cpu, float32")
    federation.give("1.train.0", b"head ", BODY)
    until(lambda: ready_node.events("sent"), "an answer")
    assert federation.answers["1.train.0"] == (pb.CONTENT_PLAIT, b"did head " + BODY)
    federation.say(pb.ToNode(drain=pb.Drain(finished=True)))
    ready_node.end()
    assert ready_node.error is None
    assert ready_node.events("finished")[0]["tasks"] == 1
    assert not ready_node.events("own_adapter")


def test_a_node_says_where_its_own_adapter_is(federation, start_node, tmp_path):
    node = start_node(base="my base")
    until(lambda: federation.readies, "the node to be ready")
    folder = memory_folder(tmp_path / "state", federation.run_id, "ada")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own").write_bytes(b"an adapter")
    (folder / "moments").write_bytes(b"of no use once the run is over")
    federation.say(pb.ToNode(drain=pb.Drain(finished=True)))
    node.end()
    (said,) = node.events("own_adapter")
    assert [file.name for file in folder.iterdir()] == ["own"]
    assert said["folder"] == str(folder)
    assert f"plait export {folder} my-adapter --to peft --base 'my base'" in said["text"]


def test_a_download_that_breaks_goes_on_where_it_broke(federation, start_node):
    federation.cut_download_at = [3000, 7000]
    federation.give("1.train.0", b"", BODY)
    start_node()
    until(lambda: federation.answers, "an answer")
    assert federation.answers["1.train.0"][1] == b"did " + BODY
    assert federation.offsets[:3] == [("download", 0), ("download", 3000), ("download", 7000)]


def test_tasks_that_share_a_body_fetch_it_once(federation, start_node):
    federation.give("1.train.0", b"a", BODY)
    federation.give("1.evaluate.0", b"b", BODY, message_type="evaluate")
    start_node()
    until(lambda: len(federation.answers) == 2, "two answers")
    assert [what for what, _ in federation.offsets].count("download") == 1
    assert federation.answers["1.evaluate.0"][1] == b"did b" + BODY


def test_a_body_that_is_not_what_was_declared_is_refused_and_the_node_works_on(federation, held_app, start_node):
    federation.give("1.train.0", b"", BODY)
    federation.bodies[federation.tasks["1.train.0"].body_sha256] = BODY + b"more than declared"
    start_node()
    until(lambda: federation.answers, "an answer")
    content, text = federation.answers["1.train.0"]
    assert content == pb.CONTENT_ERROR
    assert b"longer than 10240 bytes" in text
    federation.give("1.train.1", b"next")
    until(lambda: "1.train.1" in federation.answers, "the next answer")
    assert held_app.asked == [b"next"]


def test_a_task_whose_body_the_server_no_longer_has_is_dropped_and_the_next_is_done(federation, held_app, start_node):
    federation.give("1.train.0", b"", BODY)
    # An older connection of this node has answered it meanwhile.
    federation.bodies.clear()
    node = start_node()
    until(lambda: node.events("dropped"), "the task to be dropped")
    assert "no open task of this node has this body" in node.events("dropped")[0]["text"]
    federation.give("2.train.0", b"next", group="2")
    until(lambda: "2.train.0" in federation.answers, "the next answer")
    assert held_app.asked == [b"next"]


def test_a_task_that_comes_again_goes_on_with_the_beginning_of_its_body(federation, held_app, start_node):
    federation.give("1.train.0", b"", BODY)
    federation.cut_download_at = [3000]
    bodies = dict(federation.bodies)
    federation.on_cut = federation.bodies.clear
    node = start_node()
    until(lambda: node.events("dropped"), "the task to be dropped")
    federation.bodies |= bodies
    federation.say(pb.ToNode(work=federation.tasks["1.train.0"]))
    until(lambda: federation.answers, "an answer")
    assert federation.answers["1.train.0"][1] == b"did " + BODY
    assert federation.offsets == [("download", 0), ("download", 3000)]


def test_a_node_that_comes_back_says_nothing_of_its_work_before_its_proof(federation, busy_node):
    federation.challenge_delay_s = 0.3  # six of the node's reports
    federation.restart()
    until(lambda: len(federation.readies) == 2, "the node to come back")
    assert federation.out_of_turn == []


def test_an_upload_that_breaks_goes_on_where_it_broke(federation, start_node):
    federation.cut_upload_at = [1 << 20]
    federation.give("1.train.0", b"big")
    start_node()
    until(lambda: federation.answers, "an answer")
    assert federation.answers["1.train.0"][1] == bytes(3 << 20)
    first, second = (offset for what, offset in federation.offsets if what == "upload")
    assert (first, second) == (0, 1 << 20)


def test_a_task_survives_a_restart_of_the_server_and_is_not_begun_anew(federation, held_app, busy_node):
    federation.stop()
    until(lambda: "connection refused" in str(busy_node.events("lost")), "the node to notice and say why")
    before = held_app.steps
    until(lambda: held_app.steps > before + 3, "work to go on meanwhile")
    federation.start()
    until(lambda: len(federation.readies) == 2, "the node to come back")
    held_app.go_on.set()
    until(lambda: federation.answers, "an answer")
    assert held_app.asked == [b"slow"]


def test_an_answer_made_while_the_server_was_away_waits_until_it_is_asked_for(federation, held_app, start_node):
    federation.give("0.query.0", b"who", message_type="query", group="0")
    node = start_node()
    until(lambda: federation.answers, "a description")
    federation.give("1.train.0", b"slow")
    until(lambda: held_app.steps > 3, "work")
    federation.stop()
    # The server comes back without its memory: it asks who is there before it comes to the round again.
    (work,) = federation.tasks.values()
    federation.tasks.clear()
    federation.answers.clear()
    federation.unknown.add("1.train.0")
    federation.give("0.query.0", b"who", message_type="query", group="0")
    federation.start()
    # The description that the node gave before is good enough, so the work under way delays no one.
    until(lambda: "0.query.0" in federation.answers, "the description to be sent again")
    assert held_app.asked == [b"who", b"slow"]
    held_app.go_on.set()
    until(lambda: node.events("shelved"), "the upload to be turned down")
    federation.unknown.clear()
    federation.tasks["1.train.0"] = work
    federation.say(pb.ToNode(work=work))
    until(lambda: "1.train.0" in federation.answers, "the answer")
    assert held_app.asked == [b"who", b"slow"]


def test_a_server_that_moved_on_meanwhile_gets_what_it_wants_now(federation, busy_node):
    federation.stop()
    federation.tasks.clear()
    federation.give("2.train.0", b"next", group="2")
    federation.start()
    until(lambda: federation.answers, "an answer")
    assert set(federation.answers) == {"2.train.0"}
    assert "another task instead" in str(busy_node.events("dropped"))


def test_a_withdrawn_task_stops_at_its_next_step(federation, busy_node):
    federation.tasks.clear()
    federation.say(pb.ToNode(withdraw=pb.Withdraw(task_id="1.train.0", reason="deadline")))
    until(lambda: busy_node.events("dropped"), "the task to be dropped")
    assert "deadline" in str(busy_node.events("dropped"))
    federation.give("2.train.0", b"next", group="2")
    until(lambda: federation.answers, "the next answer")
    assert set(federation.answers) == {"2.train.0"}


def test_a_node_that_the_run_has_no_use_for_says_why(federation, start_node):
    federation.give("1.train.0", b"x")
    node = start_node()
    until(lambda: federation.answers, "the node")
    federation.say(pb.ToNode(unfit=pb.Unfit(reason="rank", detail="client 'alice' supports\na rank of at most 4")))
    until(lambda: node.events("unfit"), "what it says")
    assert "(rank): client 'alice' supports a rank of at most 4" in str(node.events("unfit"))


def test_an_answer_that_comes_too_late_is_said_to_be(federation, start_node):
    federation.late.add("1.train.0")
    federation.give("1.train.0", b"x")
    node = start_node()
    until(lambda: node.events("late"), "the receipt")


def test_what_an_app_raises_is_not_passed_on_in_its_own_words(federation, start_node):
    federation.give("1.train.0", b"secret text of a client")
    node = start_node()
    until(lambda: federation.answers, "an answer")
    content, text = federation.answers["1.train.0"]
    assert content == pb.CONTENT_ERROR
    assert text.startswith(b"ValueError at conftest.py:")
    assert "secret" not in node.screen.getvalue()


def test_an_answer_larger_than_the_server_takes_is_an_error_not_an_upload(federation, start_node):
    federation.max_answer_bytes = 1 << 20
    federation.give("1.train.0", b"big")
    start_node()
    until(lambda: federation.answers, "an answer")
    kind, text = federation.answers["1.train.0"]
    assert (kind, b"answer has 3.15 MB" in text) == (pb.CONTENT_ERROR, True)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (pb.REFUSED_REASON_UNKNOWN_KEY, "copy clients.json from the server folder that `plait provision` made"),
        (pb.REFUSED_REASON_BASE_MISMATCH, "--base"),
        (pb.REFUSED_REASON_REPLACED, "another process runs with this name"),
    ],
)
def test_a_refusal_for_good_ends_the_node_with_what_to_do(federation, start_node, reason, remedy):
    federation.refusal = pb.Refused(reason=reason, detail="so it is\nreally")
    node = start_node()
    node.end()
    assert isinstance(node.error, PeerError)
    assert node.error.exit_code == 3
    assert "so it is really" in str(node.error)
    assert remedy in str(node.error)
    assert len(federation.hellos) == 1


@pytest.mark.parametrize("reason", [pb.REFUSED_REASON_FULL, pb.REFUSED_REASON_LATE, 99])
def test_a_refusal_that_may_pass_is_tried_again(federation, start_node, reason):
    federation.refusal = pb.Refused(reason=reason)
    start_node()
    until(lambda: len(federation.hellos) > 2, "more attempts")
    federation.refusal = None
    until(lambda: federation.readies, "the node to be taken in")


def test_a_server_that_goes_for_a_while_is_waited_for(federation, ready_node):
    federation.say(pb.ToNode(drain=pb.Drain(finished=False)))
    until(lambda: ready_node.events("draining"), "the node to hear of it")
    federation.restart()
    until(lambda: len(federation.readies) == 2, "the node to come back")
    assert "restarting" in str(ready_node.events("lost")[0]["text"])


def test_another_run_on_the_same_server_begins_afresh(federation, held_app, start_node):
    federation.give("1.train.0", b"same")
    start_node()
    until(lambda: federation.answers, "an answer")
    federation.answers.clear()
    federation.run_id = 78
    federation.give("1.train.0", b"same")
    federation.tasks = dict(federation.tasks)
    federation.restart()
    until(lambda: len(held_app.asked) == 2, "the task of the other run to be done as well")


def test_ctrl_c_abandons_the_task_and_says_goodbye(federation, held_app, busy_node):
    busy_node.node.stop()
    busy_node.end()
    assert isinstance(busy_node.error, RunInterrupted)
    assert not held_app.go_on.is_set()
    assert federation.answers == {}


def test_the_system_may_end_a_node_without_an_error(federation, ready_node):
    ready_node.node.stop(by_system=True)
    ready_node.end()
    assert ready_node.error is None


def test_the_server_hears_what_a_node_is_doing(federation, held_app, start_node):
    federation.give("1.train.0", b"slow")
    start_node()
    until(lambda: any("step" in report.doing for report in federation.progress), "a report")
    assert federation.progress[0] == pb.Progress(task_id="1.train.0", doing="round 1: training")


@pytest.mark.parametrize(
    "work",
    [
        pb.Work(message_type="train"),
        pb.Work(task_id="t", message_type="train", body_bytes=5),
        pb.Work(task_id="t", message_type="train", body_bytes=1 << 40, body_sha256=bytes(32)),
    ],
)
def test_what_is_no_task_costs_the_server_its_connection(federation, held_app, work, ready_node):
    federation.say(pb.ToNode(work=work))
    until(lambda: len(federation.readies) == 2, "the node to come back")
    assert str(ready_node.events("lost")[0]["text"]).startswith(("task '", "digest of the body"))
    assert held_app.asked == []


def test_a_withdrawn_task_whose_body_does_not_come_is_dropped(federation, held_app, start_node):
    federation.stalled = threading.Event()
    federation.give("1.train.0", b"", BODY)
    node = start_node()
    until(lambda: federation.offsets, "the download to begin")
    federation.say(pb.ToNode(withdraw=pb.Withdraw(task_id="1.train.0", reason="enough")))
    until(lambda: node.events("dropped"), "the task to be dropped")
    federation.stalled.set()
    assert held_app.asked == []


def test_a_server_that_floods_a_node_with_tasks_is_left_and_tried_again(federation, held_app, ready_node):
    federation.give("1.train.0", b"slow")
    until(lambda: held_app.asked, "the task to be begun")
    work = pb.Work(message_type="evaluate", group_id="1", head=bytes(1000))
    for number in range(1000):
        federation.say(pb.ToNode(work=pb.Work(**{"task_id": f"1.evaluate.{number}", **fields(work)})))
    until(lambda: ready_node.events("lost"), "the node to leave")
    assert f"server sent a task while {MOST_WAITING} others wait" in ready_node.events("lost")[0]["text"]
    assert len(ready_node.node._worker._waiting) <= MOST_WAITING
    federation.tasks.clear()
    held_app.go_on.set()
    until(lambda: len(federation.readies) > 1, "the node to come back")
    federation.give("2.train.0", b"later")
    until(lambda: "2.train.0" in federation.answers, "an honest task to be done")


def fields(work: pb.Work) -> dict[str, object]:
    return {field.name: value for field, value in work.ListFields()}


def test_a_node_does_not_fetch_a_body_that_is_larger_than_its_policy_holds(federation, held_app, start_node):
    federation.give("1.train.0", b"head", bytes(2_000_000))
    start_node(policy=Policy(max_task_mb=1.0))
    until(lambda: federation.answers, "an answer")
    kind, text = federation.answers["1.train.0"]
    assert kind == pb.CONTENT_ERROR
    assert b"max-task-mb of this client's policy allows at most 1" in text
    assert not held_app.asked
    assert not federation.offsets or federation.offsets[0][0] != "download"


def test_a_second_welcome_in_one_call_ends_it(federation, ready_node):
    federation.say(pb.ToNode(welcome=pb.Welcome(session=bytes(32), run_config_json="{}")))
    until(lambda: ready_node.events("lost"), "the node to leave")
    assert "admitted this node twice" in ready_node.events("lost")[0]["text"]
    until(lambda: len(federation.readies) > 1, "the node to come back")
