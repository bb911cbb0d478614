from plait.flower.channel import GridChannel
from plait.rounds.channel import Purpose
from plait.simulation.echo import echo_grid


def test_every_client_sends_back_what_it_was_sent() -> None:
    channel = GridChannel(echo_grid(3), open_ended=False)
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        for number, node in enumerate(channel.nodes(3)):
            exchange.send(node, (b"head", b"body" * number))
        answers = [exchange.receive(None) for _ in range(3)]
    assert [answer and answer[1] for answer in answers] == [b"head", b"body", b"bodybody"]
    assert exchange.receive(None) is None
