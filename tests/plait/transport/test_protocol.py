import hashlib
import re
from pathlib import Path

from plait.transport import protocol
from plait.v1 import federation_pb2 as pb


def test_enrolment_bytes_are_the_parts_in_the_order_that_the_protocol_file_states():
    signed = protocol.enrolment_bytes(
        challenge_nonce=b"c" * 32, hello_nonce=b"h" * 32, public_key=b"k" * 32, name="zoë"
    )

    assert signed == b"plait.v1.enrol\0" + b"c" * 32 + b"h" * 32 + b"k" * 32 + "zoë".encode()


def test_a_nodes_number_follows_from_its_name_and_fits_into_63_bits():
    for name in ("alice", "bob", "x" * 64):
        digest = hashlib.sha256(name.encode()).digest()
        assert protocol.node_number(name) == int.from_bytes(digest[:8], "big") >> 1 < 1 << 63


def test_a_chunk_and_a_head_both_fit_into_the_largest_message():
    assert max(protocol.CHUNK_BYTES, protocol.HEAD_BYTES) < protocol.MAX_MESSAGE_BYTES


def fields(cell: str) -> dict[str, int]:
    """A cell of the specification's table, name by name: `one of a 1, b 2 (string), c 3 (bytes)`."""
    plain = re.sub(r"\([^)]*\)", "", cell.removeprefix("one of "))
    return {name: int(number) for name, number in (field.split() for field in plain.split(",") if field != "nothing")}


def test_the_specification_names_every_message_field_and_call():
    text = (Path(__file__).parents[3] / "proto" / "README.md").read_text()
    section = text.partition("## Federation over gRPC")[2].partition("### Attend")[0]
    table, calls = section.split("| Call |")

    written = {
        name: fields(cell) for name, cell in re.findall(r"^\| (\w+) \| (.*\d.*|nothing) \|$", table, flags=re.MULTILINE)
    }
    compiled = {
        name: {field.name: field.number for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert written == compiled

    methods = [method for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods]
    of_call = {method.name: (method.input_type.name, method.output_type.name) for method in methods}
    stream = "a stream of "
    assert {
        name: (taken.removeprefix(stream), given.removeprefix(stream))
        for name, taken, given in re.findall(r"^\| (\w+) \| ([\w ]+) \| ([\w ]+) \|$", calls, flags=re.MULTILINE)
        if name != "Call"
    } == of_call
