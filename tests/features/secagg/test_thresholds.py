"""What protects masked sums of every size, and the pages that say so."""

from pathlib import Path

import pytest

from plait.features.secagg.roster import COMPLETE, LEAST_GROUPS, Thresholds, colluding, groups_for
from tests.features.secagg.attacked_sums import claims
from tests.features.secagg.graph_bound import failure_bits

PAGES = Path(__file__).parents[3]
INVITED = 3, 8, 23, 24, 100, 500, 1000, 2000


@pytest.mark.parametrize("count", [*range(3, 14), 50, COMPLETE, COMPLETE + 1, 350, 500, 1000])
def test_a_server_reads_no_client_with_the_colluders_that_a_roster_bears_and_does_with_one_more(count):
    assert [complaint for complaint in claims(count) if complaint] == []


def test_the_largest_rosters_leave_a_chance_that_is_hardly_larger():
    assert all(-80 < failure_bits(count, colluding(count)) < -75 for count in (4_000, 1 << 14))


def row(invited: int) -> str:
    """Of one sum of all, and of groups."""
    groups = groups_for(invited)
    both = [Thresholds.of(invited, each) for each in (1, groups)]
    cells = [[each.roster, each.survivors, each.colluding] for each in both]
    return "| " + " | ".join(f"{cell:,}" for cell in (invited, *cells[0], groups, *cells[1])) + " |"


def test_the_guide_s_table_is_the_code_s():
    guide = (PAGES / "docs/guides/secure-aggregation.md").read_text()
    lines = guide.partition("| Invited |")[2].splitlines()[2:]
    assert [line for line in lines if line.startswith("| ")][: len(INVITED)] == [row(invited) for invited in INVITED]


def test_what_the_pages_say_in_words_follows():
    words = f"fewer than a third of the clients that a sum begins with (a tenth above {COMPLETE})"
    for page in ("README.md", "SECURITY.md", "docs/guides/secure-aggregation.md"):
        assert words in " ".join((PAGES / page).read_text().split()), page
    assert all(colluding(count) >= (count - 1) // 3 for count in range(3, COMPLETE + 1))
    assert all(colluding(count) == count // 10 for count in range(COMPLETE + 1, 2001))
    few = [count for count in range(24, 2001) if Thresholds.of(count, groups_for(count)).colluding == 1]
    assert f"of {few[0]} to {few[-1]} clients two are too many" in " ".join((PAGES / "SECURITY.md").read_text().split())
    assert (groups_for(23), groups_for(24)) == (1, LEAST_GROUPS)
