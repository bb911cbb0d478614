import hashlib

from server.inbox import Bodies

BODY = b"body" * 1000
DIGEST = hashlib.sha256(BODY).digest()


def test_a_body_is_held_once_and_only_while_it_is_used():
    bodies = Bodies()
    assert bodies.known(BODY) is None
    for _ in range(3):
        bodies.hold(BODY, DIGEST)
    assert bodies.get(DIGEST) is BODY
    assert bodies.known(BODY) == DIGEST
    assert (len(bodies), bodies.held_bytes) == (1, len(BODY))

    for left in (2, 1, 0):
        bodies.release(DIGEST)
        assert (bodies.get(DIGEST) is not None) == (left > 0)

    assert bodies.known(BODY) is None
    assert (len(bodies), bodies.held_bytes) == (0, 0)


def test_an_equal_body_is_not_held_beside_the_first():
    bodies = Bodies()
    equal = bytes(bytearray(BODY))
    assert equal is not BODY
    bodies.hold(BODY, DIGEST)
    bodies.hold(equal, DIGEST)

    assert bodies.get(DIGEST) is BODY
    assert bodies.known(equal) is None
    bodies.release(DIGEST)
    bodies.release(DIGEST)
    assert not len(bodies)
