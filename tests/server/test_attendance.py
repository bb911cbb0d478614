import pytest

from plait.transport.protocol import PROTOCOL_VERSION
from plait.trust.keys import NodeKey
from plait.trust.register import Verdict
from plait.v1 import federation_pb2 as pb
from server.attendance import Enrolment
from server.guard import EnrolmentRefused


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


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (0, "protocol version is 0, expected 1: upgrade the plait of this client, which is the older one"),
        (2, "protocol version is 2, expected 1: upgrade the plait of the server, which is the older one"),
    ],
)
def test_another_version_of_the_protocol_is_refused_and_told_who_must_upgrade(version, message):
    said = hello()
    said.hello.protocol = version
    with pytest.raises(EnrolmentRefused, match=message) as refused:
        Enrolment(EverybodysKey(), certified_name="alice").challenge(said)
    assert refused.value.reason == pb.REFUSED_REASON_PROTOCOL
