"""plait.compress as a stranger's loop uses it: up, down, and bytes from anybody."""

import json
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters import AdapterState, Layout
from plait.compress.broadcaster import Broadcaster, NotHeldError, Receiver
from plait.compress.feedback import feedback_gain, pack
from plait.compress.message import Compressor, Content, Part, decompress, state_of
from plait.errors import ConfigError, DataError, PeerError
from plait.wire.codecs import codec_for
from plait.wire.codecs.rate import Rate

SHAPES = {"b.weight": (16, 64), "a.weight": (64, 8), "10": (7,), "scalar": (), "empty": (0, 3)}


def delta(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {name: np.float32(scale) * chance.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def flat(arrays: dict) -> np.ndarray:
    return np.concatenate([np.asarray(each, np.float64).ravel() for each in arrays.values()])


def error(found: dict, wanted: dict) -> float:
    return float(np.square(flat(found) - flat(wanted)).sum() / np.square(flat(wanted)).sum())


def test_importing_it_brings_neither_torch_nor_grpc_nor_flower_nor_protobuf():
    heavy = ("torch", "grpc", "flwr", "google.protobuf", "transformers", "peft", "pandas")
    code = f"import sys, plait.compress.broadcaster; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("bits", [1, 1.5, 3, 8, "raw"])
def test_a_message_gives_the_names_shapes_and_order_back_and_states_what_it_lost(bits):
    given = delta()
    message = Compressor(bits, feedback=False).encode(given)
    found = decompress(message)
    assert [(name, each.shape, each.dtype) for name, each in found.items()] == [
        (name, shape, np.float32) for name, shape in SHAPES.items()
    ]
    assert message.distortion == pytest.approx(error(found, given), rel=1e-3, abs=1e-12)
    assert message.distortion <= (0 if bits == "raw" else 1.3 * Rate(bits).distortion)
    assert found["a.weight"].flags.writeable


def test_types_and_devices_are_those_of_the_sender_or_of_what_the_receiver_has():
    given = {
        name: torch.linspace(-1, 1, 64).to(dtype)
        for name, dtype in (("h", torch.float16), ("b", torch.bfloat16), ("d", torch.float64))
    }
    message = Compressor("raw").encode(given)
    found = decompress(message, like=given)
    for name, tensor in given.items():
        assert (found[name].dtype, found[name].device) == (tensor.dtype, tensor.device)
        assert torch.equal(found[name], tensor.float().to(tensor.dtype))
    plain = decompress(message)
    assert {name: each.dtype for name, each in plain.items()} == {"h": "float16", "b": "float32", "d": "float64"}


def test_equal_deltas_give_equal_messages_and_a_saved_sender_goes_on_where_it_was():
    one, other = Compressor(), Compressor()
    for seed in range(2):
        assert one.encode(delta(seed)) == other.encode(delta(seed))
    resumed = Compressor()
    resumed.load_state_dict(one.state_dict())
    assert list(one.state_dict()) == list(SHAPES)
    assert resumed.encode(delta(5)) == one.encode(delta(5))
    forgetful = Compressor()
    assert forgetful.encode(delta(5)) != other.encode(delta(5))


def test_under_a_steady_drift_a_gain_leaves_hardly_a_lag_and_nothing_is_lost(monkeypatch):
    layout, rounds = Layout.of({"w": (1 << 11,)}), 8
    drift = np.random.default_rng(0).normal(size=layout.size).astype(np.float32)

    def lags() -> tuple[float, float]:
        """Rounds that the receiver lags behind in the end, and the residual's norm in those of a round's movement."""
        owed, arrived = None, np.zeros(layout.size)
        for _ in range(rounds):
            encoded, owed = pack(AdapterState(layout, drift), codec_for("1"), owed=owed)
            arrived += encoded.delta.flat
        pending = owed.flat.astype(np.float64)
        np.testing.assert_allclose(arrived + pending, rounds * drift, atol=1e-3)
        return float(pending @ drift / (drift @ drift)), float(np.linalg.norm(pending) / np.linalg.norm(drift))

    lag, norm = lags()
    assert feedback_gain(Rate(1).distortion) > 1
    monkeypatch.setattr("plait.compress.feedback.feedback_gain", lambda distortion: 1)
    plain, _ = lags()
    assert abs(lag) < plain / 4
    assert norm < 6  # it has not run away


@pytest.mark.parametrize(
    ("wrong", "cause", "says"),
    [
        ({"a": np.arange(3)}, DataError, "'a' is int64"),
        ({"a": np.array([1.0, np.nan])}, DataError, "NaN or infinity"),
        ({"a": np.array([1e300])}, DataError, "more than float32"),
        ({"a.weight": np.ones((2, 2))}, ConfigError, "other names or shapes"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_changes_nothing(wrong, cause, says):
    sender = Compressor()
    sender.encode(delta())
    before = sender.state_dict()
    with pytest.raises(cause, match=says):
        sender.encode(wrong)
    assert flat(sender.state_dict()).tobytes() == flat(before).tobytes()


@pytest.mark.parametrize("bits", [0, 0.5, 9, "1", float("nan")])
def test_bits_are_one_to_eight_or_raw(bits):
    with pytest.raises(ConfigError, match="expected 1 to 8, or 'raw'"):
        Compressor(bits)


GOOD = Compressor().encode(delta())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_or_shortened_message_is_an_error(data):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    changed = bytearray(GOOD)
    changed[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(changed), GOOD[:at], GOOD + b"x"):
        with pytest.raises(PeerError):
            decompress(bad)


def forged(head: object, body: bytes = b"", packed: bytes | None = None) -> bytes:
    packed = zlib.compress(json.dumps(head).encode()) if packed is None else packed
    rest = len(packed).to_bytes(4, "little") + packed + body
    return b"plait\x01" + zlib.crc32(rest).to_bytes(4, "little") + rest


VAST = {"tensors": [["a", [1 << 40], "float32"]], "parts": [[1, 0, 0]]}
HOSTILE = {
    "a vast tensor of zeros": (forged(VAST), "expected at most 268435456"),
    "vast dimensions": (forged({"tensors": [["a", [1 << 60], "float32"]], "parts": []}), "describes a tensor"),
    "a negative dimension": (forged({"tensors": [["a", [-1], "float32"]], "parts": []}), "describes a tensor"),
    "a name twice": (forged({"tensors": [["a", [1], "float32"]] * 2, "parts": []}), "describes a tensor"),
    "another type": (forged({"tensors": [["a", [1], "object"]], "parts": []}), "describes a tensor"),
    "many parts": (forged({"tensors": [["a", [1 << 24], "float32"]], "parts": [[1, 0, 0]] * 60}), "60 parts"),
    "more parts": (forged({"tensors": [], "parts": [[1, 0, 0]] * 65}), "expected at most 64"),
    "a part beyond the end": (forged({"tensors": [], "parts": [[2, 0, 9]]}), "expected at most"),
    "an unknown codec": (forged({"tensors": [["a", [1], "float32"]], "parts": [[77, 0, 0]]}), "codec"),
    "NaN": (forged({"tensors": [["a", [1], "float32"]], "parts": [[2, 0, 4]]}, b"\0\0\xc0\x7f"), "NaN"),
    "too much for its type": (
        forged({"tensors": [["a", [1], "float16"]], "parts": [[2, 0, 4]]}, np.float32(1e6).tobytes()), "cannot hold",
    ),
    "an unknown key": (forged({"tensors": [], "parts": [], "pickle": ""}), "unknown key"),
    "a list": (forged([]), "expected a JSON object"),
    "a bomb": (forged(None, packed=zlib.compress(b" " * (1 << 26), 9)), "not one zlib stream of at most"),
    "no zlib": (forged(None, packed=b"{}"), "is not a zlib stream"),
    "deep": (forged(None, packed=zlib.compress(b"[" * 100_000)), "JSON"),
    "no digest": (forged({"tensors": [], "parts": [], "from": "zz"}), "names an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bytes_are_an_error_within_memory(kind):
    data, says = HOSTILE[kind]
    tracemalloc.start()
    try:
        for read in (decompress, Receiver().decode):
            with pytest.raises(PeerError, match=says):
                read(data)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_message_of_other_names_or_shapes_than_expected_is_an_error():
    for wrong, says in (({"a.weight": np.ones((64, 8))}, "not one of those"), (delta() | {"z": np.ones(1)}, "missing")):
        with pytest.raises(PeerError, match=says):
            decompress(GOOD, like=wrong)
    with pytest.raises(PeerError, match="shape of 'scalar'"):
        decompress(GOOD, like=delta() | {"scalar": np.ones(2)})
    with pytest.raises(PeerError, match="expected at most 100"):
        decompress(GOOD, max_numbers=100)


def moved(adapter: dict, seed: int) -> dict:
    return {name: array + step for (name, array), step in zip(adapter.items(), delta(seed, 0.1).values(), strict=True)}


@pytest.mark.parametrize("gap", [1.0, 4.0])
@pytest.mark.parametrize("bits", [1, "raw"])
def test_every_client_gets_to_the_same_adapter_whatever_it_holds(bits, gap):
    down, adapter = Broadcaster(bits, rounds=40), delta()
    always, newcomer_bytes = Receiver(), 0
    seldom = Receiver()
    for number in range(40):
        down.update(adapter, gap=gap)
        restarted = Receiver()
        restarted.load_state_dict(always.state_dict())
        clients = [always, restarted, Receiver()] + [seldom] * (number % 7 == 3)
        for client in clients:
            message = down.encode(client.holds)
            found = client.decode(message, like=adapter)
            assert flat(found).tobytes() == flat(down.adapter).tobytes()
            assert client.digest == down.digest
            newcomer_bytes = len(message) if client is clients[2] else newcomer_bytes
        assert error(found, adapter) < (1e-9 if bits == "raw" else 0.1)
        assert len(down.encode(always.holds)) < 200  # it is up to date
        adapter = moved(adapter, number)
    size = flat(adapter).size
    assert newcomer_bytes < 4.3 * size + 500


def test_a_step_costs_a_bit_and_a_client_that_was_away_gets_what_it_missed():
    adapter = {"w": np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)}
    down, here, away = Broadcaster(1), Receiver(), Receiver()
    sizes = []
    for number in range(6):
        down.update(adapter)
        message = down.encode(here.holds)
        here.decode(message)
        if number == 0:
            away.decode(down.encode(away.holds))
        sizes.append(8 * len(message) / (1 << 16))
        adapter = {"w": adapter["w"] + np.random.default_rng(number + 9).normal(size=1 << 16).astype(np.float32)}
    assert 7.5 < sizes[0] < 8.5
    assert max(sizes[1:]) < 1.1
    missed = down.encode(away.holds)
    assert 8 * len(missed) / (1 << 16) < 5.5
    away.decode(missed)
    assert away.digest == here.digest


def test_a_step_from_another_adapter_is_refused_and_changes_nothing():
    down, client = Broadcaster(), Receiver()
    down.update(delta())
    client.decode(down.encode())
    down.update(moved(delta(), 1))
    step = down.encode(client.holds)
    for other in (Receiver(), client_of(delta(7))):
        before = other.digest
        with pytest.raises(NotHeldError):
            other.decode(step)
        assert other.digest == before
    with pytest.raises(PeerError, match="use a Receiver"):
        decompress(step)
    client.decode(step)
    assert flat(decompress(down.encode())).tobytes() == flat(down.adapter).tobytes()


def client_of(adapter: dict) -> Receiver:
    down, client = Broadcaster(), Receiver()
    down.update(adapter)
    client.decode(down.encode())
    return client


def test_a_message_that_leads_elsewhere_than_it_claims_is_refused():
    form, state = state_of(delta())
    wrong = Content([Part(2, b"", state.flat.tobytes())], form, result=b"x" * 32).to_bytes()
    client = client_of(delta())
    before = client.digest
    with pytest.raises(PeerError, match="does not lead"):
        client.decode(wrong)
    assert client.digest == before


def test_nothing_can_be_sent_before_there_is_an_adapter():
    with pytest.raises(ConfigError, match="update first"):
        Broadcaster().encode()
