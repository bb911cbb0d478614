from plait.rounds.channel import Purpose
from simulations.bench.echo import echo_channel


def test_every_client_sends_back_what_it_was_sent():
    channel = echo_channel(3)
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        for number, node in enumerate(channel.nodes(3)):
            exchange.send(node, (b"head", b"body" * number))
        answers = [exchange.receive(None) for _ in range(3)]
    assert answers == [(0, b"head"), (1, b"headbody"), (2, b"headbodybody")]
    assert exchange.receive(None) is None
