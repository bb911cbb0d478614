import grpc
import pytest

from client.connection import EnrolmentAttempt
from client.session import Session, SessionOverError
from plait.errors import PeerError
from plait.transport.protocol import enrolment_bytes
from plait.trust.keys import NodeKey, verify
from plait.v1 import federation_pb2 as pb


@pytest.fixture
def session():
    with grpc.insecure_channel("localhost:1") as channel:
        yield Session(channel, pb.Welcome(), send=lambda message: None)


def test_no_receipt_is_waited_for_once_the_call_has_ended(session):
    session.given("1.train.0")
    receipt = session.answer("1.train.0", pb.CONTENT_PLAIT, b"answer")
    session.end()
    with pytest.raises(SessionOverError):
        receipt.result(timeout=180)
    with pytest.raises(SessionOverError):
        session.answer("1.train.0", pb.CONTENT_PLAIT, b"answer")


def test_a_node_proves_its_key_over_both_nonces_and_its_name():
    key = NodeKey.generate()
    enrolment = EnrolmentAttempt("ada", key)
    hello = enrolment.hello().hello
    proof = enrolment.proof(pb.Challenge(nonce=bytes(range(32)))).proof
    signed = enrolment_bytes(
        challenge_nonce=bytes(range(32)), hello_nonce=hello.nonce, public_key=hello.public_key, name="ada"
    )
    assert (hello.protocol, hello.name, hello.public_key, len(hello.nonce)) == (1, "ada", key.public_bytes, 32)
    assert verify(key.public_bytes, proof.signature, signed)


def test_every_attempt_has_a_nonce_of_its_own_and_without_a_key_nothing_is_signed():
    first, second = EnrolmentAttempt("ada", None), EnrolmentAttempt("ada", None)
    assert first.hello().hello.nonce != second.hello().hello.nonce
    assert first.hello().hello.public_key == b""
    assert first.proof(pb.Challenge(nonce=bytes(32))).proof.signature == b""


def test_a_node_signs_no_challenge_of_another_length():
    enrolment = EnrolmentAttempt("ada", NodeKey.generate())
    with pytest.raises(PeerError, match="has 5 bytes, expected 32"):
        enrolment.proof(pb.Challenge(nonce=b"short"))
