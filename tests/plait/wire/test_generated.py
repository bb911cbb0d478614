"""The committed protobuf classes are those of the committed .proto files."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from plait.v1 import envelope_pb2, messages_pb2

PROTO = Path(__file__).parents[3] / "proto"


@pytest.mark.slow
@pytest.mark.parametrize("module", [envelope_pb2, messages_pb2])
def test_committed_classes_match_the_proto_file(module, tmp_path):
    pytest.importorskip("grpc_tools")
    name, out = module.DESCRIPTOR.name, tmp_path / "set.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO), f"--descriptor_set_out={out}", name]
    subprocess.run(command, check=True)
    (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
    compiled.ClearField("source_code_info")
    for message in compiled.message_type:  # protoc spells out json names here, and leaves them out of the classes
        for field in [*message.field, *(f for nested in message.nested_type for f in nested.field)]:
            field.ClearField("json_name")
    assert compiled.SerializeToString(deterministic=True) == module.DESCRIPTOR.serialized_pb


@pytest.mark.parametrize("module", [envelope_pb2, messages_pb2])
def test_no_message_has_a_map_for_each_implementation_orders_its_entries_in_its_own_way(module):
    messages = module.DESCRIPTOR.message_types_by_name.values()
    assert not [
        nested.full_name for message in messages for nested in message.nested_types if nested.GetOptions().map_entry
    ]
