import subprocess
import sys

import pytest
from flwr.app import Message, RecordDict

from plait.flower.message import error_reply, instruction


def test_a_message_is_made_in_a_process_that_flower_did_not_start():
    made = (
        "from flwr.app import Message, RecordDict\n"
        "from plait.flower.message import instruction\n"
        "asked = instruction(RecordDict(), 'train', dst_node_id=5, group_id='3', message_id='a', run_id=7)\n"
        "said = Message(RecordDict(), reply_to=asked).metadata\n"
        "print(said.run_id, said.src_node_id, said.dst_node_id, said.group_id, said.reply_to_message_id)\n"
    )
    done = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "5", "1", "3", "a"]


def test_a_message_type_that_flower_does_not_know_is_refused():
    with pytest.raises(ValueError, match="Invalid message type"):
        instruction(RecordDict(), "guess", dst_node_id=5)


def test_an_error_is_one_printable_line():
    reply = error_reply("no\nmemory\x1b[2J", reply_to=instruction(RecordDict(), "train", dst_node_id=5))
    assert isinstance(reply, Message)
    assert reply.error.reason == "no memory [2J"
