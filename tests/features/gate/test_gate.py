"""An adapter leaves quarantine once its conditions hold, or an operator signs for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import plait
from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError
from plait.exporting.source import open_source
from plait.features.gate.conditions import FIGURES, check, parsed
from plait.features.gate.events import Quarantined, Released, ReleasedAnyway
from plait.features.gate.judge import figures_in, judge
from plait.features.gate.override import override, signed
from plait.rounds.events import Audited, MembershipAttack, RunFinished
from plait.rounds.ledger import append_event, read_events
from plait.rounds.run_directory import RunDirectory
from plait.trust.provision import provision
from tests.features.conftest import SMALL, rows
from tests.plait.rounds.conftest import started

SMALL_RUN = {**SMALL, "rounds": 1, "local_steps": 1, "partition": "natural:author", "clients": 3}


def settings(conditions: str, **more: object) -> RunConfig:
    return config_from_table({"release-if": conditions, **more})


@pytest.mark.parametrize(
    ("conditions", "why"),
    [
        ("epsilom <= 8", "did you mean 'epsilon'"),
        ("epsilon", "expected 'epsilon <= NUMBER'"),
        ("every_client_improves <= 1", "expected 'every_client_improves' alone"),
        ("gain > nan", "expected a number"),
        ("gain > 1 and gain < 0", "no gain can satisfy all of that"),
        ("gain > 1 and gain <= 1", "no gain can satisfy all of that"),
        ("gain > 1 and", "release-if has ''"),
        ("gain == 1", "release-if has 'gain == 1'"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(conditions: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        parsed(conditions)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("conditions", "more", "why"),
    [
        ("epsilon <= 8", {}, "no differential privacy"),
        ("gain > 0", {"dp": "client", "dp-epsilon": 8.0}, "clients report no losses"),
        ("every_client_improves", {"secure-aggregation": True}, "no single client's loss is known"),
        ("membership_auc < 0.6", {"objective": "dpo"}, "attacks compare losses of sequences"),
        ("clients >= 2", {"publish": "vllm"}, "release-if and publish are both given"),
    ],
)
def test_a_condition_on_what_a_run_does_not_measure_is_refused_at_the_start(
    conditions: str, more: dict[str, object], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        check(settings(conditions, **more), simulates=True)


def test_a_run_that_measures_everything_may_be_asked_for_everything() -> None:
    names = [name for name in FIGURES if name not in ("epsilon", "delta")]
    check(settings(" and ".join(name if FIGURES[name].is_flag else f"{name} < 9" for name in names)), simulates=True)
    check(settings("epsilon <= 8 and delta < 1", **{"dp": "client", "dp-epsilon": 8.0}), simulates=True)


@pytest.fixture(scope="module")
def quarantined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter waits for an audit."""
    out = tmp_path_factory.mktemp("gate") / "run"
    plait.simulate(rows(), out=out, release_if="membership_auc <= 0.6 and clients >= 3", **SMALL_RUN)  # type: ignore[arg-type]
    return out


def copied(run: Path, place: Path) -> RunDirectory:
    import shutil

    shutil.copytree(run, place)
    return RunDirectory.find(place)


def audited(directory: RunDirectory, auc: float) -> None:
    adapter = plait.open_run(directory.path).events[-2].adapter  # type: ignore[attr-defined]
    attacks = (MembershipAttack(name="loss", auc=auc, margin=0.01, tpr=0.01),)
    append_event(directory.ledger, Audited(adapter=adapter, attacks=attacks))


def test_the_worst_audit_of_the_adapter_counts() -> None:
    end = RunFinished(rounds=1, adapter="a")
    audits = [
        Audited(
            adapter=adapter, attacks=(MembershipAttack(name="loss", auc=auc, margin=0.01, tpr=0.01),), exposure=bits
        )
        for adapter, auc, bits in (("a", 0.9, 5.0), ("a", 0.5, 1.0), ("b", 0.99, 9.0))
    ]
    found = figures_in([started(), end, *audits])
    assert (found["membership_auc"], found["exposure"]) == (0.9, 5.0)


@pytest.mark.slow
def test_what_is_not_measured_keeps_it_back_and_everybody_says_which_condition(quarantined: Path) -> None:
    directory = RunDirectory.find(quarantined)
    (verdict,) = [event for event in read_events(directory.ledger) if isinstance(event, Quarantined)]
    assert verdict.unmeasured == ("membership_auc <= 0.6: not measured yet (plait audit RUN --record)",)
    assert verdict.failed == ()
    assert not (quarantined / "adapter").exists()
    assert (directory.adapter / "adapter_model.safetensors").is_file()
    for place in (quarantined, directory.adapter):
        with pytest.raises(ConfigError, match=r"in quarantine: membership_auc <= 0\.6: not measured yet"):
            open_source(place)
    with pytest.raises(ConfigError, match="in quarantine"):
        plait.open_run(quarantined).adapter()
    assert "in quarantine" in (quarantined / "report.html").read_text()


@pytest.mark.slow
def test_an_audit_releases_it_or_keeps_it_back_with_its_figure(quarantined: Path, tmp_path: Path) -> None:
    leaking = copied(quarantined, tmp_path / "leaking")
    audited(leaking, 0.9)
    assert judge(leaking, "membership_auc <= 0.6").failed == ("membership_auc <= 0.6: it is 0.9",)
    assert leaking.is_held_back
    with pytest.raises(ConfigError, match=r"it is 0\.9"):
        open_source(leaking.path)
    tight = copied(quarantined, tmp_path / "tight")
    audited(tight, 0.51)
    assert judge(tight, "membership_auc <= 0.6").holds
    assert (tight.path / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tight.path / "quarantine").exists()
    assert isinstance(read_events(tight.ledger)[-1], Released)
    open_source(tight.path)


@pytest.mark.slow
def test_killed_between_the_record_and_the_move_it_is_released_once(
    quarantined: Path, tmp_path: Path, monkeypatch
) -> None:
    directory = copied(quarantined, tmp_path / "run")
    audited(directory, 0.5)

    def killed(_: RunDirectory) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("plait.features.gate.judge.release", killed)
        with pytest.raises(KeyboardInterrupt):
            judge(directory, "membership_auc <= 0.6")
    assert directory.is_held_back
    judge(directory, "membership_auc <= 0.6")
    assert not directory.is_held_back
    assert sum(isinstance(event, Released) for event in read_events(directory.ledger)) == 1
    assert (directory.adapter / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_an_operator_signs_for_a_release_against_the_conditions(quarantined: Path, tmp_path: Path) -> None:
    provision(tmp_path / "kits", ["ada"], ["localhost"], operators=["olga"], observers=["ivo"], now=datetime.now(UTC))
    directory = copied(quarantined, tmp_path / "run")
    with pytest.raises(ConfigError, match="an observer's, expected an operator's"):
        override(directory, "clients >= 9", reason="x", kit=tmp_path / "kits/observers/ivo")
    assert override(directory, "clients >= 9", reason="board 12", kit=tmp_path / "kits/operators/olga") == "olga"
    assert not directory.is_held_back
    event = read_events(directory.ledger)[-1]
    assert isinstance(event, ReleasedAnyway)
    assert event.failed == ("clients >= 9: it is 3",)
    run = json.loads(directory.ledger.read_text().splitlines()[0])["run"]
    certificate = x509.load_pem_x509_certificate(event.certificate.encode())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    said = signed(run, event.adapter, "board 12", event.failed)
    key.verify(bytes.fromhex(event.signature), said, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(ConfigError, match="not in quarantine"):
        override(directory, "clients >= 9", reason="x", kit=tmp_path / "kits/operators/olga")


@pytest.mark.slow
def test_conditions_that_hold_at_the_end_release_it_at_once_with_the_same_bits(tmp_path: Path) -> None:
    plait.simulate(rows(), out=tmp_path / "gated", release_if="clients >= 3", **SMALL_RUN)  # type: ignore[arg-type]
    plait.simulate(rows(), out=tmp_path / "plain", **SMALL_RUN)  # type: ignore[arg-type]
    weights = [(tmp_path / run / "adapter/adapter_model.safetensors").read_bytes() for run in ("gated", "plain")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "gated/quarantine").exists()
