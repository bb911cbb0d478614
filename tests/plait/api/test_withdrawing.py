"""A withdrawn client leaves the adapter of a run that it never joined, whenever the withdrawal is killed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import plait
from plait.api.running import go_on
from plait.api.withdrawing import Plan, carry_out, plan_of, said_of
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.exporting.source import open_source
from plait.ledger.events import ClientErased
from plait.ledger.ledger import read_events
from plait.ledger.privacy import ClientWithdrawn, Withdrawn
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.trust.provision import provision
from tests.attending import served, shares_of
from tests.plait.api.conftest import SMALL, rows

ROOT = Path(__file__).parents[3]
NAMES = ("ada", "bob", "eve")
SHORT = {key: value for key, value in SMALL.items() if key != "clients"}
pytestmark = pytest.mark.slow  # several runs
RULES = {
    "fedavg, moments carried, error feedback": {},
    "flexlora": {"rule": "flexlora"},
    "lora-xs": {"method": "lora_xs"},
    "held-out sequences by the number of clients": {"held_out_fraction": 0.9},
}


def ran(out: Path, data: Path, **more: object) -> Path:
    training = {**SHORT, "rounds": 2, "local_steps": 1, "keep_updates": True, "partition": "natural:author"}
    plait.simulate(data, out=out, **{**training, **more})  # type: ignore[arg-type]
    return out


def digest(run: Path) -> str:
    return plait.open_run(run).events[-1].adapter  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The rows of all authors, or of those but some."""
    folder = tmp_path_factory.mktemp("data")

    def written(*without: str) -> Path:
        path = folder / f"rows{''.join(without)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows() if row["author"] not in without))
        return path

    return written


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Callable[..., Path]) -> Path:
    return ran(tmp_path_factory.mktemp("whole") / "run", data())


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    """The run of the others, as a withdrawal makes it."""
    plan = planned(whole, out=tmp_path_factory.mktemp("again") / "run")
    go_on(RunDirectory(plan.out), settings_of(plan), quiet=True)
    return plan.out


def settings_of(plan: Plan) -> RunConfig:
    assert plan.again
    return plan.again


def planned(run: Path, client: str = "eve", **more: object) -> Plan:
    directory = RunDirectory.find(run)
    return plan_of(directory, recorded_settings(directory), client, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("more", RULES.values(), ids=RULES)
def test_the_digest_is_that_of_a_run_which_the_client_never_joined(more, data, tmp_path):
    run, never = ran(tmp_path / "run", data(), **more), ran(tmp_path / "never", data("eve"), **more)
    plan = planned(run)
    tombstone = carry_out(plan, lambda settings: go_on(RunDirectory(plan.out), settings, quiet=True))
    assert tombstone.adapter == digest(never) == digest(plan.out)
    assert tombstone.adapter != digest_before(run)
    weights = "adapter/adapter_model.safetensors"
    assert (plan.out / weights).read_bytes() == (never / weights).read_bytes()


def test_a_class_that_it_alone_had_is_gone(tmp_path):
    labelled = [
        json.dumps({**row, "label": "hers" if row["author"] == "eve" else ("aye", "nay")[at // 3 % 2]}) + "\n"
        for at, row in enumerate(rows())
    ]
    (tmp_path / "all.jsonl").write_text("".join(labelled))
    (tmp_path / "kept.jsonl").write_text("".join(line for line in labelled if '"eve"' not in line))
    plan = planned(ran(tmp_path / "run", tmp_path / "all.jsonl"))
    carry_out(plan, lambda settings: go_on(RunDirectory(plan.out), settings, quiet=True))
    assert digest(plan.out) == digest(ran(tmp_path / "never", tmp_path / "kept.jsonl"))
    assert recorded_settings(RunDirectory.find(plan.out)).labels == "aye,nay"


def digest_before(run: Path) -> str:
    return next(event.adapter for event in plait.open_run(run).events if event.event == "run_finished")  # type: ignore[attr-defined]


def copied(whole: Path, again: Path, tmp_path: Path) -> Plan:
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(again, tmp_path / "out")
    return planned(tmp_path / "run", out=tmp_path / "out")


def refuse(_: RunConfig) -> None:
    raise AssertionError("the others' run is finished already")


def test_only_a_tombstone_is_left_of_it_and_the_old_adapter_is_held_back(whole, again, tmp_path):
    provision(tmp_path / "kits", ["ada"], ["localhost"], operators=["olga"], now=datetime.now(UTC))
    plan = copied(whole, again, tmp_path)
    tombstone = carry_out(plan, refuse, kit=tmp_path / "kits/operators/olga")
    assert not [file for file in plan.directory.path.rglob("*") if "eve" in file.name]
    assert not {each.name for each in plan.directory.path.iterdir()} & {"spool", "checkpoints", "samples.json"}
    assert {"spool/round-000001/eve.envelope", "spool/round-000002/eve.envelope"} <= set(tombstone.erased)
    with pytest.raises(ConfigError, match="'eve' has withdrawn"):
        open_source(plan.directory.path)
    events = read_events(plan.directory.ledger)
    assert [type(event) for event in events[-3:]] == [ClientWithdrawn, ClientErased, Withdrawn]
    key = x509.load_pem_x509_certificate(tombstone.certificate.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    old = json.loads(plan.directory.ledger.read_text().splitlines()[0])["run"]
    key.verify(bytes.fromhex(tombstone.signature), said_of(old, tombstone), ec.ECDSA(hashes.SHA256()))
    assert carry_out(plan, refuse) == events[-1]


def test_killed_at_any_of_twenty_moments_it_ends_the_same_and_nothing_is_half_erased(whole, again, tmp_path):
    command = [sys.executable, "-m", "tests.plait.api.killed_withdrawals", str(whole), str(again), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def test_a_run_of_the_others_that_is_another_erases_nothing(whole, again, tmp_path):
    plan = copied(whole, again, tmp_path)
    shutil.rmtree(plan.out)
    shutil.copytree(whole, plan.out)
    with pytest.raises(ConfigError, match=r"'eve' took part in .*, expected a run without it; nothing was erased"):
        carry_out(plan, refuse)
    assert (plan.directory.path / "spool/round-000001/eve.envelope").is_file()


def test_who_cannot_be_withdrawn_is_told_in_one_line(whole):
    with pytest.raises(ConfigError, match=r"'zoe' never took part in .*, expected one of ada, bob, eve"):
        planned(whole, "zoe")
    assert "2 rounds are trained again by 2 clients: about" in planned(whole).estimate


def test_the_others_are_served_again_and_end_with_the_bits_of_a_run_without_it(tmp_path):
    provision(tmp_path / "kits", NAMES, ("localhost",), now=datetime.now(UTC))
    training = {key: value for key, value in SHORT.items() if key != "quiet"} | {"local_steps": 1, "rounds": 1}
    kits, shares = tmp_path / "kits", shares_of(rows())
    assert served(tmp_path / "run", shares, tmp_path, kits=kits, clients=3, **training).finished
    directory = RunDirectory.find(tmp_path / "run")
    plan = plan_of(directory, recorded_settings(directory), "eve")

    def by_hand(_: RunConfig) -> None:
        raise ConfigError("serve the others")

    with pytest.raises(ConfigError, match="serve the others"):
        carry_out(plan, by_hand)
    assert plan.again
    again = {key: value for key, value in plan.again.to_table().items() if key != "out"}
    given = {key: value for key, value in again.items() if value != RunConfig().to_table().get(key)}
    del shares["eve"]
    settings = {key.replace("-", "_"): value for key, value in given.items()}
    assert served(plan.out, shares, tmp_path, kits=kits, **settings).finished
    tombstone = carry_out(plan_of(directory, recorded_settings(directory), "eve"), by_hand)
    plait.simulate(
        [row for row in rows() if row["author"] != "eve"], out=tmp_path / "never", partition="natural:author",
        clients=2, quiet=True, **training,  # type: ignore[arg-type]
    )  # fmt: skip
    weights = "adapter/adapter_model.safetensors"
    assert (plan.out / weights).read_bytes() == (tmp_path / "never" / weights).read_bytes()
    assert tombstone.adapter == plait.open_run(tmp_path / "never").events[-1].adapter  # type: ignore[attr-defined]
