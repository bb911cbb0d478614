"""A client keeps to the contract by its members' signatures, and its account adds epsilon up over runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, get_epsilon_gaussian
from dp_accounting.pld import PLDAccountant

from client.runner import DecliningRunner, Run
from client.settings import check_settings
from plait.config import config_from_table
from plait.errors import ConfigError, PeerError, PolicyError
from plait.features.contract.enforcing import FOLDER, Account, composed, contract_in, enforced
from plait.features.contract.signatures import SUFFIX, Signature, signed_by
from plait.features.contract.terms import Contract, read_contract
from plait.features.privacy.accountant import mu_at
from plait.trust.kit import ClientKit
from plait.trust.provision import provision
from plait.welcome import welcome_table

NAMES = ("ada", "bob", "eve")
TEXT = """
members = ["ada", "bob", "eve"]
needed = 2
until = 2099-01-01T00:00:00Z
purposes = ["coding of discharge notes"]
bases = ["tiny"]
methods = ["lora"]
least-clients = 2
unit = "record"
epsilon = 8.0
delta = 1e-5
"""
RUN: dict[str, Any] = {
    "base": "tiny", "clients": 3, "quorum": 1.0, "dp": "record", "dp-epsilon": 5.0, "dp-delta": 1e-5,
}  # fmt: skip


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    (tmp_path / "contract.toml").write_text(TEXT)
    return read_contract(tmp_path / "contract.toml")


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kits")
    provision(place, NAMES, ("localhost",), now=datetime.now(UTC))
    return place / "clients"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("needed = 2", "needed = 4"), "needed is 4 and members are 3"),
        (('"ada", "bob"', '"ada", "ada"'), "names one of them twice"),
        (("least-clients = 2", "least-clients = 9"), "least-clients is 9, and members are 3"),
        (("2099-01-01T00:00:00Z", "2099-01-01T00:00:00"), "until has no zone"),
        (("delta = 1e-5", ""), "unit, epsilon and delta go together"),
        (('unit = "record"', 'unit = "person"'), "expected client or record"),
        (("needed = 2", "needed = 2\nneeeded = 3"), "neeeded: Extra inputs"),
        (("needed = 2", 'needed = 2\nrelease-if = "epsilonn <= 8"'), "did you mean 'epsilon'"),
        (("needed = 2", 'needed = 2\nrelease-if = "gain > 1 and gain < 0"'), "no gain can satisfy all of that"),
        (("members =", "members ="), ""),
        ((TEXT, "{"), "is not TOML"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused_in_one_line(
    tmp_path: Path, change: tuple[str, str], why: str
) -> None:
    (tmp_path / "c.toml").write_text(TEXT.replace(*change))
    if not why:
        assert read_contract(tmp_path / "c.toml").needed == 2
        return
    with pytest.raises(ConfigError, match=why) as refused:
        read_contract(tmp_path / "c.toml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"base": "other"}, "bases"),
        ({"method": "dora"}, "methods"),
        ({"objective": "dpo:beta=0.1"}, "objectives"),
        ({"clients": 1}, "least-clients"),
        ({"quorum": 0.3}, "least-clients"),
        ({"dp": "client"}, "unit"),
        ({"dp-epsilon": 0.0}, "epsilon"),
        ({"dp-delta": 1e-3}, "delta"),
    ],
)
def test_every_refusal_names_the_clause(contract: Contract, change: dict[str, Any], clause: str) -> None:
    whole = {"method": "lora", "objective": "sft", **RUN}
    contract.check_run(whole)
    with pytest.raises(PolicyError, match=f"outside the contract, clause {clause}: "):
        contract.check_run({**whole, **change})
    with pytest.raises(PolicyError, match="clause until"):
        contract.check_run(whole, now=datetime(2100, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("announced", "why"),
    [
        ("", "the run has no release-if"),
        ("every_client_improves", "expected 'epsilon <= 4', or stricter"),
        ("epsilon <= 5 and every_client_improves", "expected 'epsilon <= 4', or stricter"),
        ("epsilon >= 1 and every_client_improves", "expected 'epsilon <= 4', or stricter"),
        ("epsilon <= 4", "expected 'every_client_improves', or stricter"),
        ("epsilon <= 4 and every_client_improves", ""),
        ("every_client_improves and epsilon < 3", ""),
        ("every_client_improves and epsilon < 4 and clients >= 3", ""),
    ],
)
def test_a_run_is_released_by_the_contracts_conditions_or_stricter_ones(
    contract: Contract, announced: str, why: str
) -> None:
    asked = contract.model_copy(update={"release_if": "epsilon <= 4 and every_client_improves"})
    run = {"method": "lora", "objective": "sft", **RUN, **({"release-if": announced} if announced else {})}
    if why:
        with pytest.raises(PolicyError, match=f"clause release-if: .*{why}"):
            asked.check_run(run)
    else:
        asked.check_run(run)


def test_signatures_count_by_the_authority_and_not_by_anybodys_word(
    contract: Contract, kits: Path, tmp_path: Path
) -> None:
    ada, bob = (ClientKit.load(kits / name) for name in ("ada", "bob"))
    authority = ada.tls.authority
    signatures = [Signature.of(contract, kit) for kit in (ada, bob)]
    assert signed_by(contract, signatures, authority) == ("ada", "bob")
    assert signed_by(contract, signatures, authority, [ada.node_key.public_bytes.hex()]) == ("bob",)
    assert signed_by(contract, [*signatures, *signatures], authority) == ("ada", "bob")
    other = contract.model_copy(update={"epsilon": 80.0})
    assert signed_by(other, signatures, authority) == ()
    provision(tmp_path / "other", NAMES, ("localhost",), now=datetime.now(UTC))
    forged = Signature.of(contract, ClientKit.load(tmp_path / "other/clients/eve"))
    assert signed_by(contract, [*signatures, forged], authority) == ("ada", "bob")
    (tmp_path / "x").write_bytes(signatures[0].to_bytes())
    assert Signature.load(tmp_path / "x") == signatures[0]
    (tmp_path / "x").write_bytes(signatures[0].to_bytes()[:-9])
    with pytest.raises(PeerError, match="is no signature"):
        Signature.load(tmp_path / "x")
    with pytest.raises(ConfigError, match="'ada' is no member"):
        Signature.of(contract.model_copy(update={"members": ("zoe",)}), ada)


@pytest.fixture
def node(kits: Path, tmp_path: Path) -> Callable[..., Any]:
    """What a node of eve's does with a run: the runner, or the reason why not."""
    kit = tmp_path / "eve"
    shutil.copytree(kits / "eve", kit)
    folder = kit / FOLDER
    folder.mkdir(mode=0o700)
    (folder / "contract.toml").write_text(TEXT)
    for name in ("ada", "bob"):
        signature = Signature.of(read_contract(folder / "contract.toml"), ClientKit.load(kits / name))
        (folder / f"{name}{SUFFIX}").write_bytes(signature.to_bytes())

    def open_run(number: int, *, state: Path = tmp_path / "state", kit: Path = kit, **change: object) -> Any:
        settings = check_settings(server="localhost:1", data="stdlib", kit=kit, state=state)
        config = welcome_table(config_from_table({**RUN, **change}).to_table())
        runner = enforced(settings, lambda _: "works")(Run(number, config, b""))  # type: ignore[arg-type,return-value]
        return str(runner.capacity.declined) if isinstance(runner, DecliningRunner) else runner

    return open_run


def test_a_run_outside_is_declined_although_a_server_asks_for_it(node: Callable[..., Any]) -> None:
    assert node(1) == "works"
    assert "clause methods: method is 'dora'" in node(2, method="dora")


@pytest.mark.slow
def test_epsilon_adds_up_as_dp_accounting_composes_and_a_third_run_is_refused_by_the_clients_own_account(
    node: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = (5.0, 1e-5), (4.0, 1e-5)
    sigmas = [1 / mu_at(*each) for each in (one, two)]
    accountant = PLDAccountant()
    for sigma in sigmas:
        accountant.compose(GaussianDpEvent(sigma))
    expected = get_epsilon_gaussian((sigmas[0] ** -2 + sigmas[1] ** -2) ** -0.5, 1e-5)
    assert composed({"a": one, "b": two}, 1e-5) == pytest.approx(expected, rel=1e-9)
    assert composed({"a": one, "b": two}, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert node(1) == "works"
    assert node(2, **{"dp-epsilon": 4.0}) == "works"
    assert node(2, **{"dp-epsilon": 4.0}) == "works"  # paid for already
    for moved in (tmp_path / "state", tmp_path / "moved"):
        assert "clause epsilon of the contract allows 8" in node(3, state=moved)
    assert "clause epsilon" in node(2, **{"dp-epsilon": 4.5})  # one number for another run


def test_a_new_kit_of_the_same_member_forgets_nothing(node: Callable[..., Any], tmp_path: Path) -> None:
    assert node(1) == "works"
    assert node(2, **{"dp-epsilon": 4.0}) == "works"
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "eve", again, ignore=shutil.ignore_patterns("*.account.jsonl"))
    assert "clause epsilon" in node(3, kit=again)


def test_it_is_in_force_once_enough_have_signed(node: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "eve" / FOLDER
    (folder / f"bob{SUFFIX}").unlink()
    said = node(1)
    assert "not in force, clause needed: 1 of 3 members have signed (ada), expected 2" in said
    authority = ClientKit.load(tmp_path / "eve").tls.authority
    with pytest.raises(PolicyError, match="not in force"):
        contract_in(folder, authority)


def test_a_damaged_account_is_refused(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match="what was spent is unknown"):
        Account((tmp_path,), "a").charge(contract, "x", 1.0, 1e-5)
    assert timedelta(0) < contract.until - datetime.now(UTC)
