import grpc
import pytest

from client.session import Session, SessionOverError
from plait.transport.protocol import HEAD_BYTES
from plait.v1 import federation_pb2 as pb


@pytest.fixture
def session():
    with grpc.insecure_channel("localhost:1") as channel:
        yield Session(channel, pb.Welcome(), send=lambda message: None)


def answers(session, data=b"answer"):
    return session.answer("1.train.0", pb.CONTENT_PLAIT, data) is not None


def test_a_task_of_this_call_is_answered_over_it_once(session):
    session.given("1.train.0")
    assert answers(session)
    assert not answers(session)


def test_a_task_that_was_withdrawn_or_has_a_large_answer_is_forgotten(session):
    session.given("1.train.0")
    session.withdrawn("1.train.0")
    assert not answers(session)
    session.given("1.train.0")
    assert not answers(session, bytes(HEAD_BYTES + 1))
    assert not answers(session)


def test_no_receipt_is_waited_for_once_the_call_has_ended(session):
    session.given("1.train.0")
    receipt = session.answer("1.train.0", pb.CONTENT_PLAIT, b"answer")
    session.end()
    with pytest.raises(SessionOverError):
        receipt.result(timeout=10)
    with pytest.raises(SessionOverError):
        answers(session)
