"""The server: for every body that comes over a socket on loopback, one round with all nodes.

One array a message, and questions ten times a second: the fastest that Flower's engine was seen to be.
"""

import socket
import time

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

COUNT_BYTES = 8
PAUSE_S = 0.1

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Do rounds until the socket is closed."""
    wanted = int(context.run_config["nodes"])
    while len(list(grid.get_node_ids())) < wanted:
        time.sleep(PAUSE_S)
    with socket.create_connection(("127.0.0.1", int(context.run_config["port"]))) as line, line.makefile("rb") as said:
        while len(count := said.read(COUNT_BYTES)) == COUNT_BYTES:
            body = said.read(int.from_bytes(count, "big"))
            answered = sum(one_round(grid, body))
            line.sendall(answered.to_bytes(COUNT_BYTES, "big"))


def one_round(grid: Grid, body: bytes) -> list[int]:
    """Send all nodes a body; returns how many bytes each sent back."""
    content = RecordDict({"body": ArrayRecord({"body": Array("uint8", (len(body),), "bytes", body)})})
    messages = [Message(content, node, "query") for node in grid.get_node_ids()]
    waiting = set(grid.push_messages(messages))
    sizes: list[int] = []
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            sizes.append(0 if reply.has_error() else len(reply.content["body"]["body"].data))
        time.sleep(PAUSE_S)
    return sizes
