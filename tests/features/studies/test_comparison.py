from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from plait.errors import ConfigError, PeerError
from plait.features.studies.comparison import compare


def test_runs_that_differ_in_the_seed_only_are_one_group_of_means(make_run) -> None:
    runs = [make_run(f"fedavg-{seed}", loss, seed=seed, rule="fedavg") for seed, loss in ((0, 3.0), (1, 3.5))]
    runs += [make_run("other", 2.5, rule="ffa", sent=500)]
    summary = compare(*runs).summary.set_index("group")
    assert summary.seeds.to_dict() == {"rule fedavg": 2, "rule ffa": 1}
    assert summary.loss.to_dict() == {"rule fedavg": 3.25, "rule ffa": 2.5}
    # Two values 0.5 apart: t = 12.706 with one degree of freedom, times half their distance.
    assert summary.loss_margin["rule fedavg"] == pytest.approx(12.706 * 0.25, rel=1e-4)
    assert summary.loss_margin["rule ffa"] == 0.5


def test_the_fewest_settings_that_tell_groups_apart_are_their_labels(make_run) -> None:
    grid = [(rule, wire) for rule in ("fedavg", "ffa") for wire in ("1", "2")]
    runs = [make_run(f"{n}-{seed}", 3.0, seed=seed, rule=r, wire=w) for n, (r, w) in enumerate(grid) for seed in (0, 1)]
    assert [group.label for group in compare(*runs).groups] == [f"rule {rule}, wire {wire}" for rule, wire in grid]


def test_a_setting_that_follows_from_another_is_no_label(make_run) -> None:
    shares = {"fedavg": "0.35", "median": "0.0"}
    runs = [make_run(f"{r}-{n}", 3.0, seed=n, rule=r, **{"own-share": s}) for r, s in shares.items() for n in (0, 1)]
    assert [group.label for group in compare(*runs).groups] == ["rule fedavg", "rule median"]


def test_the_same_settings_and_seed_twice_are_two_groups(make_run) -> None:
    """A run of another version of the code is not another seed."""
    runs = [make_run(f"{name}-{seed}", 3.0, seed=seed) for name in ("before", "after") for seed in (0, 1)]
    assert [[run.name for run in group.runs] for group in compare(*runs).groups] == [
        ["before-0", "before-1"],
        ["after-0", "after-1"],
    ]


def test_runs_of_another_task_are_not_compared(make_run) -> None:
    runs = [make_run("good", 2.0, sent=100), make_run("other", 3.0, data="bbc", sent=900)]
    comparison = compare(*runs)
    assert comparison.differences.empty
    assert "different data" in comparison.notes[0]
    assert "stdlib: good; bbc: other" in comparison.notes[0]


def test_weights_of_another_fingerprint_are_another_base(make_run) -> None:
    base = {"name": "smollm2-135m", "fingerprint": "ff" * 32, "task": "causal-lm"}
    comparison = compare(make_run("one", 3.0), make_run("other", 3.0, started={"base": base}))
    assert comparison.differences.empty
    assert "not comparable" in comparison.notes[0]


def test_an_unfinished_run_is_shown_and_named_and_counts_only_where_none_has_finished(make_run) -> None:
    runs = [make_run("done", 3.0, seed=0), make_run("going", 9.0, seed=1, is_over=False)]
    runs += [make_run("alone", 2.0, rule="ffa", is_over=False), make_run("new", None, rule="krum", is_over=False)]
    comparison = compare(*runs)
    summary = comparison.summary
    assert summary.loss.tolist()[:2] == [3.0, 2.0]
    assert summary.loss.isna().tolist() == [False, False, True]
    said = " ".join(comparison.notes)
    assert all(f"{name} is unfinished" in said for name in ("going", "alone", "new"))


def test_other_held_out_sequences_are_said(make_run) -> None:
    runs = make_run("one", 3.0, partition="iid"), make_run("other", 3.0, partition="square", tokens=90)
    assert compare(*runs).notes == ("other is evaluated on other held-out sequences than one.",)


def test_a_run_that_is_named_twice_counts_once(make_run, monkeypatch) -> None:
    run = make_run("one", 3.0)
    monkeypatch.chdir(run.parent)
    assert len(compare(run, "one", Path("one/../one")).runs) == 1


def test_what_is_no_run_is_refused_by_name(make_run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to compare"):
        compare()
    with pytest.raises(ConfigError, match=r"'.*nothing' holds no run"):
        compare(make_run("one", 3.0), tmp_path / "nothing")


def test_a_broken_ledger_is_refused_by_name(make_run) -> None:
    run = make_run("one", 3.0)
    shutil.copytree(run, run.with_name("broken"))
    ledger = run.with_name("broken") / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"stdlib", b"other", 1))
    with pytest.raises(PeerError, match=r"broken/ledger.jsonl"):
        compare(run, run.with_name("broken"))


@pytest.mark.slow
def test_a_name_is_not_markup(make_run) -> None:
    runs = [make_run("one", 3.0), make_run("<script>alert(1)</script>".replace("/", "-"), 3.1)]
    comparison = compare(*runs)
    page = comparison.page()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
