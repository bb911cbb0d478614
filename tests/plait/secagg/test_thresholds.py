"""What protects masked sums of every size, and the pages that say so."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from plait.guarantees import COMPLETE, LEAST_GROUPS, Thresholds, colluding, groups_for
from plait.secagg.stages import seated
from plait.secagg.sums import FAR, distances
from tests.plait.secagg.attacked_sums import claims

PAGES = Path(__file__).parents[3]
INVITED = 3, 8, 23, 24, 100, 500, 1000, 2000


@pytest.mark.parametrize("count", [*range(3, 14), 50, COMPLETE, COMPLETE + 1, 350, 500, 1000])
def test_a_server_reads_no_client_with_the_colluders_that_a_roster_bears_and_does_with_one_more(count):
    assert [complaint for complaint in claims(count) if complaint] == []


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


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_name_is_in_one_group_and_sizes_differ_by_one_at_most(count):
    names = [f"client-{number}" for number in range(100)]
    seats = seated(names, count, key="key", before={})
    sizes = Counter(seats.values())
    assert seats.keys() == set(names)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert seats == seated(names[::-1], count, key="key", before={})
    assert count == 1 or seats != seated(names, count, key="another", before={})


def test_whoever_comes_or_is_away_the_others_keep_their_group():
    seats = seated("abcdefgh", 3, key="key", before={})
    later = seated("abcxyz", 3, key="another", before=seats)
    assert {name: later[name] for name in seats} == seats
    assert sorted(Counter(later.values()).values()) == [3, 4, 4]


@pytest.mark.parametrize("groups", [3, 4, 5, 8])
@pytest.mark.parametrize("agreement", [0.1, 1.0])
def test_means_of_like_groups_lie_about_as_far_apart_and_one_that_is_moved_does_not(groups, agreement):
    generator = np.random.default_rng(groups)
    shared = agreement * generator.standard_normal(4096)
    means = [(shared + generator.standard_normal(4096)).astype(np.float32) for _ in range(groups)]
    assert max(distances(means)) < 1.5
    for moved in (means[0] * 10, means[0] + 10, -10 * means[0], means[0] + 5 * generator.standard_normal(4096)):
        found = distances([moved.astype(np.float32), *means[1:]])
        assert [distance > FAR for distance in found] == [True] + [False] * (groups - 1)
