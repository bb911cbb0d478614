"""Differential privacy of persons who have several records."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

import plait
from plait.cli.privacy import check_privacy
from plait.config import config_from_table
from plait.errors import ConfigError, PolicyError
from plait.ledger.ledger import read_events
from plait.ledger.privacy import PrivacyCard, together
from plait.policy import Policy
from plait.privacy.client import RecordPrivacy, charge
from plait.privacy.noise import Keystream
from plait.settle import settle
from plait.training.holding_out import place_of

SITES, PERSONS, STEPS, BATCH = 3, 120, 6, 4
OPTIONS = {
    "base": "tiny", "partition": "natural:site", "clients": SITES, "rounds": 3, "local_steps": 2, "batch_size": BATCH,
    "seq_len": 32, "rank": 2, "threads": 1, "group": "patient", "dp": "record", "dp_epsilon": 8.0, "dp_clip": 1.0,
}  # fmt: skip


def notes(folder):
    """600 notes of 120 persons at three sites, of whom one has 30."""
    drawn = random.Random(3)
    # Of the others one each, and the rest by chance.
    rows = [(person, number) for person in range(PERSONS) for number in range(30 if person == 0 else 1)]
    rows += [(drawn.randrange(1, PERSONS), 1000 + number) for number in range(600 - len(rows))]
    path = folder / "notes.jsonl"
    lines = [
        {"text": f"note {number} of {person}: {drawn.random()}", "site": f"s{person % SITES}", "patient": f"p{person}"}
        for person, number in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def paid(tmp_path_factory):
    """A run's ledger, and what its clients paid."""
    folder, seen = tmp_path_factory.mktemp("groups"), []

    def watched(*args, **options):
        seen.append(charge(*args, **options))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("plait.privacy.client.charge", watched)
        plait.simulate(str(notes(folder)), out=folder / "run", quiet=True, **OPTIONS)
    return read_events(folder / "run" / "ledger.jsonl"), seen


@pytest.mark.slow
def test_epsilon_counts_persons_as_an_independent_accountant_does(paid):
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    events, charges = paid
    spent = check_privacy(events)
    sites = [[person for person in range(PERSONS) if person % SITES == site] for site in range(SITES)]
    trained = [sum(place_of(f"p{person}") >= 0.1 for person in site) for site in sites]
    assert [each.privacy.records for each in charges[-SITES:]] == trained
    for epsilon, each in zip(spent.by_client.values(), charges[-SITES:], strict=True):
        accountant = PLDAccountant()
        sampled = PoissonSampledDpEvent(BATCH / each.privacy.records, GaussianDpEvent(each.privacy.noise))
        accountant.compose(sampled, STEPS)
        assert accountant.get_epsilon(spent.delta) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.slow
def test_an_estimate_of_as_many_groups_has_the_noise_and_epsilon_of_the_run(paid):
    from typer.testing import CliRunner

    from plait.cli.app import app

    events, charges = paid
    last = charges[-1]
    plan = [text for key, value in OPTIONS.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    ran = CliRunner().invoke(app, ["estimate", *plan, "--records", str(last.privacy.records), "--json"])
    said = json.loads(ran.output)
    assert said["dp_noise_multiplier"] == last.privacy.noise
    assert said["dp_epsilon"] == pytest.approx([*check_privacy(events).by_client.values()][-1], rel=1e-9)
    shown = CliRunner().invoke(app, ["estimate", *plan, "--records", "36"]).output
    assert "Differential privacy of groups ('patient')" in shown


@pytest.mark.slow
def test_card_and_figures_name_the_person(paid):
    card = PrivacyCard.of(paid[0])
    assert card.headline.startswith("with patient-level differential privacy")
    assert "all records of one patient" in dict(card.facts)["Protected"]
    assert not any("the epsilon of k records" in text for text in card.not_covered)
    with pytest.raises(ConfigError, match="protect different things"):
        together({"a": card, "b": replace(card, promised=card.promised.model_copy(update={"unit": "record"}))})


def test_the_sampler_draws_persons_with_the_probability_that_is_charged():
    privacy = RecordPrivacy(records=36, batch=BATCH, noise=1.0, delta=1e-5, epsilon=8.0, clip_norm=1.0)
    drawn = np.bincount(
        np.concatenate([privacy.sample(Keystream(number.to_bytes(32, "big"))) for number in range(4000)]), minlength=36
    )
    expected = 4000 * privacy.rate
    # Chi-squared of 36 binomials: 36 on average, 8.5 either way; four of these.
    assert abs(((drawn - expected) ** 2).sum() / (expected * (1 - privacy.rate)) - 36) < 4 * 8.5


def test_a_run_of_groups_asks_for_more_than_one_of_records_and_its_limits_count_that():
    asked = {"dp": "record", "dp-epsilon": 4.0, "group": "patient", "dp-group-records": 8, "batch-size": 4}
    config = settle(config_from_table(asked)).config
    assert config.private_group == "patient"
    limit = Policy(max_step_tokens=4 * 8 * config.seq_len)
    limit.check_run(config)
    with pytest.raises(PolicyError, match="max-step-tokens"):
        Policy(max_step_tokens=4 * 8 * config.seq_len - 1).check_run(config)
    by_record = config_from_table({**asked, "dp-unit": "record", "dp-group-records": 4})
    assert not by_record.private_group
