import math
import shutil
import statistics

import pytest

from plait.errors import PeerError
from plait.studies.comparison import Difference, Pairing, compare, difference


def test_runs_that_differ_in_the_seed_only_are_one_group_of_means(make_run):
    runs = [make_run(f"fedavg-{seed}", loss, seed=seed, rule="fedavg") for seed, loss in ((0, 3.0), (1, 3.5))]
    runs += [make_run("other", 2.5, rule="ffa", sent=500)]
    summary = compare(*runs).summary.set_index("group")
    assert summary.seeds.to_dict() == {"rule fedavg": 2, "rule ffa": 1}
    assert summary.loss.to_dict() == {"rule fedavg": 3.25, "rule ffa": 2.5}
    # Two values 0.5 apart: t = 12.706 with one degree of freedom, times half their distance.
    assert summary.loss_margin["rule fedavg"] == pytest.approx(12.706 * 0.25, rel=1e-4)
    assert summary.loss_margin["rule ffa"] == 0.5


def test_the_same_settings_and_seed_twice_are_two_groups(make_run):
    """A run of another version of the code is not another seed."""
    runs = [make_run(f"{name}-{seed}", 3.0, seed=seed) for name in ("before", "after") for seed in (0, 1)]
    assert [[run.name for run in group.runs] for group in compare(*runs).groups] == [
        ["before-0", "before-1"],
        ["after-0", "after-1"],
    ]


def test_runs_of_another_task_are_not_compared(make_run):
    runs = [make_run("good", 2.0, sent=100), make_run("other", 3.0, data="bbc", sent=900)]
    comparison = compare(*runs)
    assert comparison.differences.empty
    assert "different data" in comparison.notes[0]
    assert "stdlib: good; bbc: other" in comparison.notes[0]
    given = {"notes": {}, "codes": {"columns": "text=code"}}
    read = {
        name: {"name": "my", "fingerprint": mark * 64, "records": 7} for name, mark in zip(given, "ab", strict=True)
    }
    runs = [make_run(name, 2.0, data="my.csv", started={"data": read[name]}, **each) for name, each in given.items()]
    assert "(my.csv: notes; my.csv text=code: codes)" in compare(*runs).notes[0]


def test_an_unfinished_run_is_shown_and_named_and_counts_only_where_none_has_finished(make_run):
    runs = [make_run("done", 3.0, seed=0), make_run("going", 9.0, seed=1, is_over=False)]
    runs += [make_run("alone", 2.0, rule="ffa", is_over=False), make_run("new", None, rule="krum", is_over=False)]
    comparison = compare(*runs)
    summary = comparison.summary
    assert summary.loss.tolist()[:2] == [3.0, 2.0]
    assert summary.loss.isna().tolist() == [False, False, True]
    said = " ".join(comparison.notes)
    assert all(f"{name} is unfinished" in said for name in ("going", "alone", "new"))


def test_a_broken_ledger_is_refused_by_name(make_run):
    run = make_run("one", 3.0)
    shutil.copytree(run, run.with_name("broken"))
    ledger = run.with_name("broken") / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"stdlib", b"other", 1))
    with pytest.raises(PeerError, match=r"broken/ledger.jsonl"):
        compare(run, run.with_name("broken"))


@pytest.mark.slow
def test_a_name_is_not_markup(make_run):
    runs = [make_run("one", 3.0), make_run("<script>alert(1)</script>".replace("/", "-"), 3.1)]
    comparison = compare(*runs)
    page = comparison.page()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def found(*runs) -> Difference | None:
    comparison = compare(*runs)
    return difference(comparison.groups[1], comparison.baseline)


def test_seeds_in_common_are_subtracted_one_by_one(make_run):
    """Losses vary by 1 between seeds and by 0.01 within them: only pairs tell the rules apart."""
    losses = {0: (3.0, 3.1), 1: (2.0, 2.11), 2: (2.5, 2.59), 7: (9.0, None)}
    runs = []
    for rule, place in (("fedavg", 0), ("ffa", 1)):
        runs += [
            make_run(f"{rule}-{seed}", pair[place], seed=seed, rule=rule)
            for seed, pair in losses.items()
            if pair[place] is not None
        ]
    moved = [0.1, 0.11, 0.09]
    margin = 4.3027 * statistics.stdev(moved) / math.sqrt(3)
    difference = found(*runs)
    assert difference == Difference(pytest.approx(0.1), pytest.approx(margin, rel=1e-4), Pairing.SEEDS, 3)
    assert abs(difference.mean) > difference.margin


def test_single_runs_with_the_same_start_are_paired_over_sequences(make_run):
    one, other = (make_run(name, loss, rule=name) for name, loss in (("fedavg", 3.0), ("ffa", 3.2)))
    # Each change is known to 0.03; the losses themselves only to 0.5.
    assert found(one, other) == Difference(pytest.approx(0.2), pytest.approx(math.hypot(0.03, 0.03)), Pairing.SEQUENCES)


@pytest.mark.parametrize("change", [{"tokens": 101}, {"base_loss": 4.1}, {"change_margin": None}])
def test_without_the_same_start_they_are_not_paired(make_run, change):
    one, other = make_run("fedavg", 3.0, rule="fedavg"), make_run("ffa", 3.2, rule="ffa", **change)
    difference = found(one, other)
    assert difference == Difference(pytest.approx(0.2), pytest.approx(math.hypot(0.5, 0.5)), Pairing.NOTHING)
    assert abs(difference.mean) < difference.margin
