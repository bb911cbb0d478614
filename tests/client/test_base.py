from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from client.base import KeptBase, agreed, node_run_config, open_runner
from client.settings import check_settings
from client.task import OfferedRun
from plait.adapters import fingerprint_base
from plait.config import RunConfig
from plait.data import Dataset, Record, RecordKind
from plait.errors import BaseMismatchError, ConfigError, PeerError, PolicyError
from plait.run import resolve
from plait.settle import settle
from plait.training.bases import locate_base
from plait.wire.welcome import welcome_table

DATA = Dataset("my", RecordKind.TEXT, (Record(text="words"),))


def settings(tmp_path: Path, **changes: object):
    return check_settings(server="localhost:1", data="my.jsonl", insecure=True, state=tmp_path, **changes)  # type: ignore[arg-type]


def a_run(base: str, fingerprint: bytes, **changes: object) -> OfferedRun:
    return OfferedRun(7, welcome_table(RunConfig(base=base, **changes).to_table()), fingerprint)


def test_what_concerns_the_machine_is_its_operators_choice(tmp_path):
    sent = RunConfig(base="theirs", device="cuda:7", dtype="float16", threads=64, rank=3).to_table()
    own = node_run_config(sent, settings(tmp_path, base="mine", device="cpu", dtype="float32", threads=1))
    changed = {key for key in sent if sent[key] != own[key]}
    assert changed == {"base", "device", "dtype", "threads"}
    assert (own["base"], own["threads"], own["rank"]) == ("mine", 1, 3)
    assert node_run_config(sent, settings(tmp_path))["base"] == "theirs"
    assert node_run_config(sent, settings(tmp_path, base="theirs=mine,other=no"))["base"] == "mine"
    assert node_run_config(sent, settings(tmp_path, base="other=no"))["base"] == "theirs"


def test_a_server_cannot_choose_what_code_runs_here(tmp_path):
    sent = RunConfig(trainer="os:system").to_table()
    with pytest.raises(PolicyError, match="give --trainer os:system to agree"):
        node_run_config(sent, settings(tmp_path))
    assert node_run_config(sent, settings(tmp_path, trainer="os:system"))["trainer"] == "os:system"
    with pytest.raises(PolicyError, match="plait itself"):
        node_run_config(RunConfig().to_table(), settings(tmp_path, trainer="mine:build"))


@pytest.mark.slow
def test_a_node_says_what_it_holds(tmp_path):
    fingerprint = bytes.fromhex(fingerprint_base(locate_base("tiny").directory))
    told: list[str] = []
    place = open_runner(
        a_run("tiny", fingerprint), settings(tmp_path, device="cpu", max_memory_gb=0.001), DATA, progress=told.append
    )
    assert place.ready.base_fingerprint == fingerprint
    assert "lora" in place.ready.methods
    assert place.ready.memory_bytes == 1_000_000
    assert place.ready.device.startswith("cpu, ")


def test_another_base_than_the_runs_is_found_before_work_begins(tmp_path):
    with pytest.raises(BaseMismatchError, match="give --base the run's exact model"):
        open_runner(a_run("tiny", bytes(32)), settings(tmp_path), DATA, progress=lambda _: None)


def test_a_base_that_is_called_otherwise_here_can_be_given(tmp_path):
    with pytest.raises(ConfigError, match="give --base DIRECTORY"):
        open_runner(a_run("/models/of/the/server", bytes(32)), settings(tmp_path), DATA, progress=lambda _: None)


def test_a_run_that_protects_persons_refuses_data_that_name_none(tmp_path):
    asked = {"dp": "record", "dp-epsilon": 8.0, "group": "patient", "dp-unit": "group"}
    run = replace(a_run("tiny", TINY), config={**a_run("tiny", TINY).config, **asked})
    records = [Record(text=record.text, columns={"pid": str(place)}) for place, record in enumerate(DATA.records)]
    named = Dataset.of("own", RecordKind.TEXT, records)
    for data, group, why in ((DATA, "", "'patient' together"), (named, "", "give --group"), (named, "id", "no column")):
        with pytest.raises((PolicyError, ConfigError), match=why):
            open_runner(run, settings(tmp_path, group=group), data, progress=lambda _: None)
    open_runner(run, settings(tmp_path, group="pid"), named, progress=lambda _: None)


TINY = bytes.fromhex(fingerprint_base(locate_base("tiny").directory))


@pytest.mark.parametrize(
    "name", ["/etc", "~", ".", "../models", "models", "org/name/more", "file:///etc", "org\x00/x", ""]
)
def test_a_server_cannot_name_a_directory_of_this_machine(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    run = replace(a_run("tiny", TINY), config={**a_run("tiny", TINY).config, "base": name})
    with pytest.raises(ConfigError, match="give --base DIRECTORY"):
        open_runner(run, settings(tmp_path), DATA, progress=lambda _: None)


@pytest.mark.parametrize(("key", "value"), [("out", "x"), ("rounds", 0)])
def test_a_run_configuration_that_cannot_be_is_the_servers_fault(tmp_path, key, value):
    run = replace(a_run("tiny", TINY), config={**a_run("tiny", TINY).config, key: value})
    with pytest.raises(PeerError, match=key):
        open_runner(run, settings(tmp_path), DATA, progress=lambda _: None)


@pytest.fixture
def no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look for a base fails the test."""

    def look(*_: object, **__: object) -> None:
        raise AssertionError("a base was looked for")

    monkeypatch.setattr("client.base.locate_base", look)


@pytest.mark.usefixtures("no_base")
def test_a_run_beyond_the_policy_is_refused_before_a_base_is_looked_for(tmp_path):
    with pytest.raises(PolicyError, match="max-rounds of this client's policy allows at most 10,000"):
        open_runner(a_run("org/large", TINY, rounds=20_000), settings(tmp_path), DATA, progress=lambda _: None)


@pytest.mark.usefixtures("no_base")
def test_nothing_is_looked_for_before_consent(tmp_path):
    (tmp_path / "policy.toml").write_text('consent = "ask"\n')
    asking = settings(tmp_path, policy=tmp_path / "policy.toml")
    told: list[str] = []
    with pytest.raises(PolicyError, match="there is no terminal to ask on"):
        open_runner(a_run("org/large", TINY), asking, DATA, progress=told.append)
    with pytest.raises(PolicyError, match="did not consent"):
        open_runner(a_run("org/large", TINY), asking, DATA, progress=told.append, ask=lambda: False)
    said = "\n".join(told)
    for words in ("5 rounds with rule fedavg", "base org/large", "method lora, rank 8", "2,048 tokens of my.jsonl"):
        assert words in said


def test_a_large_plan_is_taken_where_somebody_is_shown_it_and_then_without_a_terminal(tmp_path):
    run, told = a_run("tiny", TINY, seq_len=100_000), list[str]()

    def begin(state: str, ask=None, **options: object):
        return agreed(run, settings(tmp_path / state, **options), progress=told.append, ask=ask)

    for options in ({}, {"yes": True}, {"yes": True, "ask": lambda: True}):
        with pytest.raises(PolicyError, match="sequence length 100,000, but max-seq-len of this client's policy"):
            begin("unseen", **options)
    assert not told
    with pytest.raises(PolicyError, match="did not consent"):
        begin("declined", ask=lambda: False)
    assert any("more than an unattended client accepts: max-seq-len 100,000" in line for line in told)
    assert begin("seen", ask=lambda: True)[2].max_seq_len == 100_000
    assert begin("seen")[2].max_seq_len == 100_000


def test_a_base_of_the_hub_that_is_too_large_is_not_fetched(tmp_path, monkeypatch):
    fetched: list[str] = []

    def download(name: str, **options: object) -> str:
        if not options.get("local_files_only"):
            fetched.append(name)
        raise FileNotFoundError(name)

    class Hub:
        def model_info(self, name: str, **_: object) -> object:
            files = [("model.safetensors", 29_000_000_000), ("tokenizer.json", 10**9), ("model.bin", 10**12)]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in files])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(PolicyError, match="'org/large' has 30 GB to download, but max-download-gb"):
        open_runner(a_run("org/large", TINY), settings(tmp_path), DATA, progress=lambda _: None)
    assert not fetched


@pytest.mark.slow
def test_the_base_stays_in_memory_for_the_next_run_on_it_whatever_its_adapter(monkeypatch):
    loads, honest = 0, AutoModelForCausalLM.from_pretrained

    def counted(*args: object, **how: object) -> object:
        nonlocal loads
        loads += 1
        return honest(*args, **how)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    kept = KeptBase()
    for settings in ({"rank": 4}, {"rank": 8, "seq_len": 1024}, {"method": "vera", "trainer": "mine:build"}):
        run = resolve(settle(RunConfig(base="tiny", device="cpu", dtype="float32", **settings)))
        base = kept.of(run)
        assert base.identity == run.load_base().identity, "results are named by this run's settings, not by the last's"
        adapter = run.ranks.master
        base.with_adapter(adapter.spec, adapter.initial)
    assert loads == 1
