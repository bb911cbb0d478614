import pytest

from plait.transport import PROTOCOL_VERSION
from plait.trust import NodeKey, Verdict
from plait.v1 import federation_pb2 as pb
from server.enrolment import Enrolment, EnrolmentRefused


class EverybodysKey:
    def check(self, name, public_key):
        return Verdict.KNOWN


def hello(name="alice"):
    key = NodeKey.generate().public_bytes
    return pb.FromNode(hello=pb.Hello(protocol=PROTOCOL_VERSION, name=name, public_key=key, nonce=b"n" * 32))


@pytest.mark.parametrize("certified_name", ["bob", "", None])
def test_where_keys_count_the_certificate_must_say_the_same_name(certified_name):
    with pytest.raises(EnrolmentRefused, match="name differs from the certificate's") as refused:
        Enrolment(EverybodysKey(), certified_name=certified_name).challenge(hello())
    assert refused.value.reason == pb.REFUSED_REASON_WRONG_NAME


def test_the_name_of_the_certificate_gets_a_challenge():
    assert Enrolment(EverybodysKey(), certified_name="alice").challenge(hello()).HasField("challenge")


def test_without_tls_there_is_no_certificate_to_ask_for():
    assert Enrolment(None, certified_name=None).challenge(hello()).HasField("challenge")


@pytest.mark.parametrize(
    ("newest", "least", "spoken"),
    [(1, 0, 1), (2, 0, 2), (2, 1, 2), (3, 2, 2), (9, 1, 2), (1, 1, 1)],
)
def test_both_speak_the_newest_version_of_the_protocol_that_they_have_in_common(newest, least, spoken):
    said = hello()
    said.hello.protocol, said.hello.least_protocol = newest, least
    enrolment = Enrolment(EverybodysKey(), certified_name="alice")
    assert enrolment.challenge(said).challenge.protocol == spoken
    assert enrolment.stays == (spoken >= 2)


@pytest.mark.parametrize(
    ("newest", "least", "message"),
    [
        (0, 0, "protocol version is 0, expected 1 to 2: upgrade the plait of this client, which is the older one"),
        (3, 0, "protocol version is 3, expected 1 to 2: upgrade the plait of the server, which is the older one"),
        (4, 3, "protocol version is 3 to 4, expected 1 to 2: upgrade the plait of the server"),
        (1, 2, "protocol version is 1, expected 1 to 2"),  # a range that is none
    ],
)
def test_where_no_version_is_common_the_refusal_says_who_must_upgrade(newest, least, message):
    said = hello()
    said.hello.protocol, said.hello.least_protocol = newest, least
    with pytest.raises(EnrolmentRefused, match=message) as refused:
        Enrolment(EverybodysKey(), certified_name="alice").challenge(said)
    assert refused.value.reason == pb.REFUSED_REASON_PROTOCOL
