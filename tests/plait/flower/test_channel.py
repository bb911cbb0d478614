import time
from dataclasses import dataclass, field

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, Metadata, RecordDict

from plait.errors import ConfigError, RunInterrupted
from plait.flower import channel as grid_channel
from plait.flower.channel import ContextMemory, GridChannel, from_message, to_content
from plait.rounds.channel import NoAnswer, Purpose, StopRequest


@pytest.fixture
def pauses(monkeypatch):
    slept = []
    monkeypatch.setattr(grid_channel.time, "sleep", slept.append)
    return slept


@dataclass
class FakeGrid:
    """Answers what `answer` says, a message after as many pulls as `patience` says."""

    answer: object
    patience: dict[int, int] = field(default_factory=dict)
    connected: list[list[int]] = field(default_factory=lambda: [[12, 10, 11]])
    lost: dict[int, list[str | None]] = field(default_factory=dict)
    pushed: list[Message] = field(default_factory=list)
    pulled: list[list[str]] = field(default_factory=list)

    def get_node_ids(self):
        return self.connected.pop(0) if len(self.connected) > 1 else self.connected[0]

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        metadata = Metadata(
            run_id=0, message_id=f"message-{dst_node_id}", src_node_id=1, dst_node_id=dst_node_id,
            reply_to_message_id="", group_id=group_id, created_at=time.time(), ttl=60.0, message_type=message_type,
        )  # fmt: skip
        return Message(metadata=metadata, content=content)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.pushed.append(message)
            ids += self.lost.get(node, [f"message-{node}"])
        return ids

    def pull_messages(self, message_ids):
        self.pulled.append(list(message_ids))
        for message_id in self.pulled[-1]:
            node = int(message_id.removeprefix("message-"))
            self.patience[node] = self.patience.get(node, 0) - 1
            if self.patience[node] < 0:
                message = next(m for m in self.pushed if m.metadata.dst_node_id == node)
                yield from self.answer(message)


def echo(message):
    yield Message(to_content(from_message(message) + b"!"), reply_to=message)


def exchange(grid, nodes=(10, 11, 12), purpose=Purpose.TRAIN):
    with GridChannel(grid).exchange(purpose, "7") as exchange:
        for node in nodes:
            exchange.send(node, (b"task ", b"%d" % node))
        return list(iter(lambda: exchange.receive(None), None))


def test_every_node_gets_its_task_and_is_heard(pauses):
    grid = FakeGrid(echo)
    assert dict(exchange(grid)) == {node: b"task %d!" % node for node in (10, 11, 12)}
    assert [(m.metadata.dst_node_id, m.metadata.group_id) for m in grid.pushed] == [(10, "7"), (11, "7"), (12, "7")]
    assert not pauses


@pytest.mark.parametrize("purpose", Purpose)
def test_every_purpose_has_a_message_type_of_flowers(purpose, pauses):
    grid = FakeGrid(echo)
    exchange(grid, purpose=purpose)
    expected = {Purpose.DESCRIBE: "query", Purpose.TRAIN: "train", Purpose.EVALUATE: "evaluate"}
    expected |= {Purpose.MASK: "query.mask", Purpose.JUDGE: "evaluate.judge"}
    assert {message.metadata.message_type for message in grid.pushed} == {expected[purpose]}


def test_replies_come_as_they_come_and_one_at_a_time(pauses):
    grid = FakeGrid(echo, patience={10: 2, 11: 1})
    assert [node for node, _ in exchange(grid)] == [12, 11, 10]
    assert all(len(message_ids) == 1 for message_ids in grid.pulled)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda message: [Message(Error(3, "out of memory"), reply_to=message)], "failed: out of memory"),
        (lambda message: [Message(RecordDict(), reply_to=message)], "without plait's bytes"),
        (
            lambda message: [Message(RecordDict({"plait": ConfigRecord({"head": 1})}), reply_to=message)],
            "plait's bytes",
        ),
    ],
)
def test_a_node_that_failed_is_told_in_words(pauses, answer, complaint):
    ((node, reply),) = exchange(FakeGrid(answer), nodes=(10,))
    assert node == 10
    assert complaint in reply.detail


@pytest.mark.parametrize("answered", [[], [None], [""]], ids=["left out", "None", "empty"])
def test_a_task_that_could_not_be_sent_is_told_in_words_and_the_others_go_on(pauses, answered):
    replies = dict(exchange(FakeGrid(echo, lost={11: answered})))
    assert replies == {10: b"task 10!", 11: NoAnswer("node 11 could not be sent its task"), 12: b"task 12!"}


def test_a_message_that_is_answered_twice_counts_once(pauses):
    grid = FakeGrid(lambda message: [*echo(message), *echo(message)])
    assert [node for node, _ in exchange(grid)] == [10, 11, 12]


def test_an_answer_that_does_not_come_in_time_is_not_waited_for():
    grid = FakeGrid(echo, patience={10: 10**6})
    with GridChannel(grid).exchange(Purpose.TRAIN, "1") as exchange:
        exchange.send(10, (b"", b""))
        assert exchange.receive(0.05) is None


def test_an_answer_to_an_abandoned_task_does_not_count(pauses):
    with GridChannel(FakeGrid(echo)).exchange(Purpose.TRAIN, "1") as exchange:
        for node in (10, 11):
            exchange.send(node, (b"", b""))
        exchange.withdraw(11, "silent")
        assert exchange.receive(None)[0] == 10
        assert exchange.receive(None) is None


def test_a_run_that_is_to_stop_does_not_wait(pauses):
    with pytest.raises(RunInterrupted):
        GridChannel(FakeGrid(echo, connected=[[]]), StopRequest(asked=True)).nodes(1)
    assert not pauses


@pytest.fixture
def context():
    def make():
        return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})

    return make


def test_what_was_saved_is_there_for_the_next_message(context):
    kept = context()
    for data in (b"one", b"", bytes(range(256)) * 100):
        ContextMemory(kept).save("adapter", data)
        assert ContextMemory(kept).load("adapter") == data


def test_keys_and_clients_are_kept_apart(context):
    alice, bob = ContextMemory(context()), ContextMemory(context())
    alice.save("adapter", b"a")
    alice.save("spec", b"s")
    bob.save("adapter", b"b")
    assert (alice.load("adapter"), alice.load("spec")) == (b"a", b"s")
    assert (bob.load("adapter"), bob.load("spec")) == (b"b", None)


def test_what_somebody_else_keeps_in_the_context_is_not_ours(context):
    kept = context()
    kept.state["plait.adapter"] = ConfigRecord({"bytes": b"theirs"})
    kept.state["other"] = ConfigRecord({"a": 1})
    assert ContextMemory(kept).load("adapter") is None
    ContextMemory(kept).save("spec", b"ours")
    assert set(kept.state) == {"plait.adapter", "other", "plait.spec"}


def test_an_account_of_private_records_is_not_kept_where_it_ends_with_the_node(context):
    with pytest.raises(ConfigError, match="dp of the run is 'record' and this node's state is Flower's"):
        ContextMemory(context()).save("record-privacy", b"{}")


class InMemoryGrid:
    """By its name the grid of Flower's simulation."""


class OtherGrid:
    """Any other."""


@pytest.mark.parametrize(
    ("grid", "data", "named"),
    [(InMemoryGrid(), "stdlib", None), (OtherGrid(), "", "stdlib")],
    ids=["simulated", "network"],
)
def test_the_data_of_a_run_are_its_own_only_where_flower_simulates_the_clients(grid, data, named):
    given: list[object] = []
    app = grid_channel.server_app(lambda _, settings, superlink_data: given.extend([settings, superlink_data]))
    settings = {"data": "stdlib", "rounds": 2}
    app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=settings))  # pyright: ignore
    assert given == [{"data": data, "rounds": 2}, named]
