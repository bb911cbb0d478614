from __future__ import annotations

from collections.abc import Sequence

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from plait.errors import DataError, Interrupted, PeerError
from plait.flower.blob import from_message, to_content
from plait.simulation.gathering import Gathering
from plait.simulation.local_grid import FIRST_CLIENT_NODE, LocalGrid, SideBySide, StopRequest, run_in_process


def echo_app(seen: list[int]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = context.node_config["partition-id"]
        seen.append(int(index))
        if index == 2:
            raise DataError("client 'two' has too little data")
        return Message(to_content(from_message(message) + b"/%d" % index), reply_to=message)

    return app


def grid_of(seen: list[int], *, nodes: int = 3, stop: StopRequest | None = None) -> LocalGrid:
    configs = {FIRST_CLIENT_NODE + index: {"partition-id": index} for index in range(nodes)}
    return LocalGrid(echo_app(seen), configs, run_config={}, run_id=1, stop=stop)


def message_to(grid: LocalGrid, index: int) -> Message:
    return grid.create_message(to_content(b"hello"), "train", FIRST_CLIENT_NODE + index, "1")


def test_bytes_reach_the_client_and_come_back() -> None:
    grid = grid_of([])
    (reply,) = grid.send_and_receive([message_to(grid, 1)])
    assert from_message(reply) == b"hello/1"
    assert reply.metadata.src_node_id == FIRST_CLIENT_NODE + 1


def test_a_client_works_only_when_its_reply_is_pulled_and_only_once() -> None:
    seen: list[int] = []
    grid = grid_of(seen)
    first, second = grid.push_messages([message_to(grid, 0), message_to(grid, 1)])
    assert seen == []
    assert len(list(grid.pull_messages([second]))) == 1
    assert seen == [1]
    assert list(grid.pull_messages([second])) == []
    assert len(list(grid.pull_messages([first]))) == 1


def test_a_client_that_fails_is_an_error_reply_not_the_end_of_the_run() -> None:
    grid = grid_of([])
    (reply,) = grid.send_and_receive([message_to(grid, 2)])
    with pytest.raises(PeerError, match="node 1002 failed: client 'two' has too little data"):
        from_message(reply)


def test_a_stop_request_ends_the_run_before_the_next_client() -> None:
    seen: list[int] = []
    stop = StopRequest()
    grid = grid_of(seen, stop=stop)
    first, second = grid.push_messages([message_to(grid, 0), message_to(grid, 1)])
    grid.pull_messages([first])
    stop.asked = True
    with pytest.raises(Interrupted):
        grid.pull_messages([second])
    assert seen == [0]


def test_clients_that_train_side_by_side_are_those_of_one_round_in_the_order_asked() -> None:
    together: list[list[int]] = []

    def answer(asked: Sequence[int]) -> list[int]:
        together.append(list(asked))
        return [10 * each for each in asked]

    gathering = Gathering(answer)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        if index == 2:
            raise DataError("client 'two' has too little data")
        return Message(to_content(b"%d" % gathering.ask(index)), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(to_content(b"loss"), reply_to=message)

    configs = {FIRST_CLIENT_NODE + index: {"partition-id": index} for index in range(6)}
    grid = LocalGrid(app, configs, run_config={}, run_id=1, side_by_side=SideBySide(4, gathering))
    other_round = grid.create_message(to_content(b""), "train", FIRST_CLIENT_NODE + 5, "2")
    evaluation = grid.create_message(to_content(b""), "evaluate", FIRST_CLIENT_NODE + 5, "1")
    ids = grid.push_messages([other_round, evaluation, *(message_to(grid, index) for index in range(5))])
    later, judged, *train_ids = ids
    replies = [next(iter(grid.pull_messages([each]))) for each in train_ids]
    assert together == [[0, 1, 3], [4]]
    assert [from_message(reply) for reply in replies if not reply.has_error()] == [b"0", b"10", b"30", b"40"]
    assert [reply.metadata.src_node_id - FIRST_CLIENT_NODE for reply in replies] == [0, 1, 2, 3, 4]
    assert "too little data" in replies[2].error.reason
    assert len(list(grid.pull_messages([judged, later]))) == 2
    assert together[2:] == [[5]]


def test_every_node_keeps_its_own_state_between_messages() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        record = context.state.setdefault("count", to_content(b"")["plait"])
        count = len(record) + 1
        context.state["count"] = to_content(b"x")["plait"]
        return Message(to_content(b"%d" % count), reply_to=message)

    grid = LocalGrid(app, {7: {}, 8: {}}, run_config={}, run_id=1)
    contexts = {node: grid._contexts[node] for node in (7, 8)}
    list(grid.send_and_receive([grid.create_message(to_content(b""), "train", 7, "1")]))
    assert "count" in contexts[7].state
    assert "count" not in contexts[8].state


def test_the_server_app_sees_as_many_nodes_as_were_asked_for() -> None:
    seen: list[object] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seen.append((len(list(grid.get_node_ids())), context.run_config["rounds"]))

    run_in_process(server, echo_app([]), run_config={"rounds": 3}, nodes=5)
    assert seen == [(5, 3)]
