"""What a region's operator is told of a run."""

from tests.client.test_proposal import lines


def test_a_region_is_told_what_it_sends_and_a_client_below_it_whom_it_deals_with() -> None:
    told = lines(tree="2x1")
    assert "at most 640 tokens at each client\n" in told
    assert "sent: in each round the exact sum of its clients' updates, 4 to 8 bytes per parameter" in told
    assert "a region, the server of 1 client: it sees" in told
    for of_a_client in ("stays here", "this client's own updates", "my.jsonl"):
        assert of_a_client not in told
        assert of_a_client in lines(tree="1")
    assert "the server is a region" in lines(tree="1")
    besides = "how many clients it has and a hash of each one's name"
    assert f"also sent: means of losses, counts of examples and tokens, {besides}\n" in told
    noisy = lines(tree="2x3", dp="record", **{"dp-epsilon": 8.0, "dp-delta": 1e-5})
    assert f"also sent: {besides}\neach client adds noise to its own training" in noisy
    assert "kept by each client's own account" in noisy
    for of_a_client in ("this client", "this machine's device", "can reveal parts"):
        assert of_a_client not in noisy
