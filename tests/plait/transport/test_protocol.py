import hashlib

from plait.transport import protocol


def test_enrolment_bytes_are_the_parts_in_the_order_that_the_protocol_file_states():
    signed = protocol.enrolment_bytes(
        challenge_nonce=b"c" * 32, hello_nonce=b"h" * 32, public_key=b"k" * 32, name="zoë"
    )

    assert signed == b"plait.v1.enrol\0" + b"c" * 32 + b"h" * 32 + b"k" * 32 + "zoë".encode()


def test_a_nodes_number_follows_from_its_name_and_fits_into_63_bits():
    for name in ("alice", "bob", "x" * 64):
        digest = hashlib.sha256(name.encode()).digest()
        assert protocol.node_number(name) == int.from_bytes(digest[:8], "big") >> 1 < 1 << 63
