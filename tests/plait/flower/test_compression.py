"""Flower's strategies over compressed messages in one process; all messages and states pass through its bytes."""

import contextlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    Krum,
)

from plait.compress.message import MAGIC, Compressor
from plait.errors import ConfigError
from plait.flower import Compressed, compression_mod
from plait.flower.compression import BLOB, KEY

SHAPES = {"0": (64, 32), "2": (32, 64), "10": (32,)}
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())
WANTED = {name: np.random.default_rng(7).normal(size=shape) for name, shape in SHAPES.items()}


def copied(content: RecordDict) -> tuple[RecordDict, int]:
    data = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(type(recorddict_to_proto(content)).FromString(data)), len(data)


class Nodes:
    """A grid in one process."""

    def __init__(self, app: Callable[[int], ClientApp], count: int = 4) -> None:
        self.apps = {node: app(node) for node in range(1, count + 1)}
        self.contexts = {node: self.fresh() for node in self.apps}
        self.sizes: list[tuple[int, int, int]] = []  # node, bytes down, bytes up
        self.before: Callable[[Nodes], None] = lambda nodes: None
        self.tamper: Callable[[Message], None] = lambda reply: None

    def fresh(self) -> Context:
        return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})

    def get_node_ids(self) -> list[int]:
        return list(self.apps)

    def send_and_receive(self, messages, *, timeout=None):
        self.before(self)
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            content, down = copied(message.content)
            message.metadata.__dict__["_message_id"] = f"m{node}"
            received = Message(metadata=message.metadata, content=content)
            try:
                reply = self.apps[node](received, self.contexts[node])
            except Exception as error:
                reply = Message(Error(1, str(error)), reply_to=received)
            up = 0
            if reply.has_content():
                reply.content, up = copied(reply.content)
            self.contexts[node].state, _ = copied(self.contexts[node].state)
            self.tamper(reply)
            self.sizes.append((node, down, up))
            replies.append(reply)
        return replies


@pytest.fixture(autouse=True)
def run():
    """Newer versions of Flower ask for it when a message is made."""
    with contextlib.suppress(ImportError):
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 9, 1


def client(node: int, *, mods=(compression_mod,), seen: list | None = None) -> ClientApp:
    """Steps a part of the way to WANTED, each client with a target of its own."""
    app = ClientApp(mods=list(mods))
    chance = np.random.default_rng(node)
    own = {name: wanted + chance.normal(size=wanted.shape) * 0.3 for name, wanted in WANTED.items()}

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        if seen is not None:
            seen.append((node, {name: array.numpy() for name, array in arrays.items()}))
        after = {
            name: Array((array.numpy() + 0.3 * (own[name] - array.numpy())).astype(array.dtype))
            if name in WANTED
            else array
            for name, array in arrays.items()
        }
        metrics = MetricRecord({"num-examples": 3.0, "node": float(node)})
        content = {"arrays": ArrayRecord(after), "metrics": metrics, "note": message.content["config"]}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        loss = sum(float(np.square(arrays[name].numpy() - WANTED[name]).sum()) for name in WANTED) / SIZE
        content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 1.0, "loss": loss})}
        return Message(RecordDict(content), reply_to=message)

    return app


def initial(dtype: str = "float32") -> ArrayRecord:
    return ArrayRecord({name: Array(np.zeros(shape, dtype)) for name, shape in SHAPES.items()})


def distance(arrays: ArrayRecord) -> float:
    return sum(float(np.square(arrays[name].numpy() - WANTED[name]).sum()) for name in WANTED) / SIZE


def test_a_run_of_bits_ends_where_the_run_of_floats_does_with_a_twentieth_of_the_bytes():
    plain, packed = Nodes(lambda node: client(node, mods=())), Nodes(client)
    options = {"initial_arrays": initial(), "num_rounds": 10, "train_config": ConfigRecord({"own": "kept"})}
    expected = FedAvg(fraction_evaluate=0.5).start(plain, **options)
    found = Compressed(FedAvg(fraction_evaluate=0.5)).start(packed, **options)
    assert list(found.arrays) == list(SHAPES)
    assert {array.dtype for array in found.arrays.values()} == {"float32"}
    start, end = distance(initial()), distance(expected.arrays)
    assert (start - distance(found.arrays)) / (start - end) > 0.97
    down, up = (sum(each[way] for each in packed.sizes) for way in (1, 2))
    assert sum(sum(each[1:]) for each in plain.sizes) > 15 * (down + up)
    assert found.evaluate_metrics_clientapp[10]["loss"] == pytest.approx(end, abs=0.05)


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: FedAdam(eta=0.1),
        lambda: Krum(num_malicious_nodes=0),
        FedMedian,
        lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1e-9, 1e3, 4),
    ],
    ids=["FedAdam", "Krum", "FedMedian", "clipping at the server"],
)
def test_any_strategy_works_compressed(strategy):
    plain, packed = Nodes(lambda node: client(node, mods=())), Nodes(client)
    options = {"initial_arrays": initial(), "num_rounds": 10}
    expected = strategy().start(plain, **options)
    found = Compressed(strategy(), bits=4).start(packed, **options)
    start = distance(initial())
    assert (start - distance(found.arrays)) / (start - distance(expected.arrays)) > 0.95


def test_everything_else_travels_untouched_and_keeps_its_place():
    other = {
        "steps": Array(np.array([3, 4])),
        "0": Array(np.ones((2, 3), "float64")),
        "h": Array(np.ones(2, "float16")),
    }
    seen: list[tuple[list[str], str, dict]] = []
    app = ClientApp(mods=[compression_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        seen.append((list(arrays), message.content["config"]["own"], dict(message.content["config"])))
        np.testing.assert_array_equal(arrays["steps"].numpy(), [3, 4])
        return Message(RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 1.0})}), reply_to=message)

    options = {"num_rounds": 2, "train_config": ConfigRecord({"own": "kept"})}
    strategy = FedAvg(fraction_evaluate=0.0)
    found = Compressed(strategy, bits="raw").start(Nodes(lambda _: app), ArrayRecord(other), **options)
    assert all(order == list(other) and own == "kept" and set(config) == {"own", "server-round"}
               for order, own, config in seen)  # fmt: skip
    assert {name: array.dtype for name, array in found.arrays.items()} == {
        "steps": "float64", "0": "float64", "h": "float16"}  # fmt: skip  # Flower averages whole numbers so


def test_a_fourth_of_the_nodes_a_round_still_saves_and_all_hold_one_adapter():
    seen: list = []
    nodes = Nodes(lambda node: client(node, seen=seen), count=16)
    found = Compressed(FedAvg(fraction_train=0.25, fraction_evaluate=0.0)).start(nodes, initial(), num_rounds=20)
    assert distance(found.arrays) < 0.2 * distance(initial())
    assert sum(down + up for _, down, up in nodes.sizes) * 10 < 20 * 4 * 2 * 4 * SIZE
    for number in range(20):
        of_round = seen[4 * number : 4 * number + 4]
        assert len({b"".join(each.tobytes() for each in arrays.values()) for _, arrays in of_round}) == 1


@pytest.mark.parametrize("same_node", [True, False])
def test_a_node_that_lost_everything_gets_to_the_same_adapter_as_the_others(same_node):
    seen: list = []
    nodes, rounds = Nodes(lambda node: client(node, seen=seen)), [0]

    def restart(nodes: Nodes) -> None:
        rounds[0] += 1
        if rounds[0] == 4:
            nodes.contexts[2] = nodes.fresh()
            if not same_node:
                nodes.apps[22], nodes.contexts[22] = nodes.apps.pop(2), nodes.contexts.pop(2)

    nodes.before = restart
    found = Compressed(FedAvg(fraction_evaluate=0.0)).start(nodes, initial(), num_rounds=6)
    assert len(found.train_metrics_clientapp) == 6
    assert len(seen) == 24
    for number in range(6):
        of_round = seen[4 * number : 4 * number + 4]
        assert len({b"".join(each.tobytes() for each in arrays.values()) for _, arrays in of_round}) == 1
    # Asked for everything once, and only by that node.
    assert len(nodes.sizes) == 24 + same_node


def forge(reply: Message, change: Callable[[RecordDict], None]) -> None:
    if reply.has_content() and reply.metadata.src_node_id == 3:
        change(reply.content)


def another(content: RecordDict) -> None:
    content[KEY] = ConfigRecord(dict(content[KEY]) | {"holds": [b"x" * 32]})


def bytes_of(data: bytes) -> Callable[[RecordDict], None]:
    def change(content: RecordDict) -> None:
        array = Array(dtype="uint8", shape=(len(data),), stype="x", data=data)
        content["arrays"] = ArrayRecord({BLOB: array})

    return change


def other_names(content: RecordDict) -> None:
    bytes_of(Compressor().encode({"0": np.ones(4)}))(content)


@pytest.mark.parametrize(
    "change",
    [another, bytes_of(b""), bytes_of(MAGIC * 20), other_names, lambda content: content.pop(KEY),
     lambda content: content.__setitem__(KEY, ConfigRecord({"packed": ["nothing"]}))],
    ids=["another adapter", "no bytes", "no message", "other names", "no mod", "no such record"],
)  # fmt: skip
def test_a_hostile_answer_fails_its_node_and_no_other(change):
    nodes = Nodes(client)
    nodes.tamper = lambda reply: forge(reply, change)
    honest = Nodes(client)
    del honest.apps[3]
    found = Compressed(FedAvg(fraction_evaluate=0.0)).start(nodes, initial(), num_rounds=1)
    expected = Compressed(FedAvg(fraction_evaluate=0.0)).start(honest, initial(), num_rounds=1)
    for name in SHAPES:
        np.testing.assert_allclose(found.arrays[name].numpy(), expected.arrays[name].numpy(), rtol=1e-5, atol=1e-6)


def test_a_client_that_answers_with_its_change_instead_of_its_arrays_is_understood():
    app, start = ClientApp(mods=[compression_mod]), {"w": np.full((64, 64), 100.0, np.float32)}
    change = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = {"arrays": ArrayRecord({"w": Array(change)}), "m": MetricRecord({"num-examples": 1.0})}
        return Message(RecordDict(content), reply_to=message)

    record = ArrayRecord({name: Array(array) for name, array in start.items()})
    found = Compressed(FedAvg(fraction_evaluate=0.0), bits=4).start(Nodes(lambda _: app), record, num_rounds=1)
    assert float(np.square(found.arrays["w"].numpy() - change).mean()) < 0.02


def test_a_client_without_the_mod_fails_and_one_with_it_serves_a_plain_server():
    replies: list[Message] = []

    class Watched(FedAvg):
        def aggregate_train(self, server_round, replies_):
            replies.extend(replies_)
            return super().aggregate_train(server_round, replies)

    Compressed(Watched(fraction_evaluate=0.0)).start(Nodes(lambda n: client(n, mods=())), initial(), num_rounds=1)
    assert all(reply.has_error() for reply in replies)
    plain = FedAvg(fraction_evaluate=0.0).start(Nodes(client), initial(), num_rounds=1)
    unchanged = FedAvg(fraction_evaluate=0.0).start(Nodes(lambda n: client(n, mods=())), initial(), num_rounds=1)
    np.testing.assert_allclose(plain.arrays["0"].numpy(), unchanged.arrays["0"].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (lambda: SecAggPlusWorkflow(3, 2), "masks add up only over one grid"),
        (lambda: DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1.0, 1.0, 4), "ServerSideFixedClipping"),
        (lambda: Compressed(FedAvg()), "none of flwr.serverapp.strategy"),
    ],
)
def test_what_cannot_work_compressed_is_refused_with_the_reason(strategy, says):
    with pytest.raises(ConfigError, match=says):
        Compressed(strategy())
    with pytest.raises(ConfigError, match="expected 1 to 8"):
        Compressed(FedAvg(), bits=0.5)


def test_a_message_of_secagg_is_refused_by_the_client():
    message = Message(RecordDict({"secaggplus_configs": ConfigRecord()}), 1, "train")
    with pytest.raises(ConfigError, match="masks"):
        compression_mod(message, Nodes(client).fresh(), lambda *_: message)


def test_the_mod_brings_neither_torch_nor_the_strategies():
    code = "; print([name for name in ('torch', 'flwr.serverapp.strategy') if name in sys.modules])"
    found, flowers = (
        subprocess.run([sys.executable, "-c", each + code], capture_output=True, text=True, check=True).stdout
        for each in ("import sys, plait.flower; plait.flower.compression_mod", "import sys, flwr.clientapp, flwr.app")
    )
    assert found == flowers
