"""The live page of a tree."""

from tests.features.page.test_board import board_of
from tests.features.trees.test_report import in_tree


def test_the_document_says_whether_its_clients_are_regions(small_run) -> None:
    for run, peer in ((small_run, "client"), (in_tree(small_run), "region")):
        assert board_of(run)[0].document["peer"] == peer
