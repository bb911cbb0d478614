import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.settings import RUNS_KEPT, check_settings, locked, memory_folder, prune
from plait.errors import ConfigError
from plait.policy import Policy
from plait.rounds.memory import IRREPLACEABLE, DiskMemory
from plait.trust.keys import NodeKey
from plait.trust.provision import provision
from tests.commands import Command, killed_after


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    provision(tmp_path / "kits", ("ada",), ("localhost",), now=datetime.now(UTC))
    return tmp_path / "kits" / "clients" / "ada"


def test_with_a_kit_the_name_and_the_key_come_from_it(kit, tmp_path):
    settings = check_settings(server="localhost:9440", data="some/my.jsonl", kit=kit, state=tmp_path / "state")
    key = NodeKey.load(kit / "node.key")
    assert (settings.name, settings.kit.node_key.public_bytes) == ("ada", key.public_bytes)
    assert (settings.name, settings.data, settings.state) == ("ada", "some/my.jsonl", tmp_path / "state")
    assert (settings.max_rank, settings.trainer, settings.policy) == (0, "", Policy())


def test_bases_can_be_named_one_for_all_runs_or_by_the_name_that_a_run_gives(tmp_path):
    def bases(text: str) -> list[str]:
        settings = check_settings(server="localhost:1", data="x", insecure=True, base=text)
        return [settings.base_for(name) for name in ("news", "law", "tiny")]

    assert bases("") == ["", "", ""]
    assert bases("mine") == ["mine", "mine", "mine"]
    assert bases("news=/a, law=/b") == ["/a", "/b", ""]
    (tmp_path / "v=2").mkdir()
    assert bases(str(tmp_path / "v=2")) == [str(tmp_path / "v=2")] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "news=/a,/b"}, "expected one DIRECTORY, or NAME=DIRECTORY"),
        ({"base": "news=/a,news=/b"}, "with every name once"),
        ({"server": "plait.example.org:9440", "insecure": True}, "expected a server on this machine"),
        ({"insecure": False}, "give --kit DIR"),
        ({"server": "localhost"}, "expected HOST:PORT"),
        ({"name": "../ada"}, "client name is"),
        ({"threads": -1}, "threads is -1"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"max_memory_gb": -1.0}, "expected 0 or more"),
        ({"max_memory_gb": float("inf")}, "expected 0 or more"),
        ({"max_rank": -1}, "max-rank is -1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_settings(**{"server": "localhost:1", "data": "my.jsonl", "insecure": True, **changes})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_kit_goes_with_no_other_name_and_no_insecure_connection(kit):
    with pytest.raises(ConfigError, match="was made for 'ada'"):
        check_settings(server="localhost:1", data="x", kit=kit, name="bob")
    with pytest.raises(ConfigError, match="give one of them"):
        check_settings(server="localhost:1", data="x", kit=kit, insecure=True)


def test_masks_are_required_by_option_or_policy_and_never_without_a_kit(kit, tmp_path):
    (tmp_path / "policy.toml").write_text("require-secure-aggregation = true\n")
    given = {"server": "localhost:1", "data": "x"}
    for more in ({"require_secure_aggregation": True}, {"policy": tmp_path / "policy.toml"}):
        assert check_settings(**given, **more, kit=kit).policy.require_secure_aggregation
        with pytest.raises(ConfigError, match="require-secure-aggregation and insecure are both given"):
            check_settings(**given, **more, insecure=True)
    assert not check_settings(**given, kit=kit).policy.require_secure_aggregation


def keep_something(state: Path, run_id: int, name: str, *, age_s: int) -> Path:
    folder = memory_folder(state, run_id, name)
    folder.mkdir(parents=True)
    (folder / "adapter").write_bytes(b"sent again when lost")
    os.utime(folder, (1_000_000 - age_s, 1_000_000 - age_s))
    return folder


def test_the_newest_runs_are_kept_whole_and_others_nodes_left_alone(tmp_path):
    folders = [keep_something(tmp_path, run, "ada", age_s=run) for run in range(7)]
    bob = keep_something(tmp_path, 6, "bob", age_s=99)
    prune(tmp_path, "ada", keep=folders[5])
    # The run under way is kept though it is old, and with it the three newest.
    assert [(folder / "adapter").exists() for folder in folders] == [True, True, True, False, False, True, False]
    assert sum((folder / "adapter").exists() for folder in folders) == RUNS_KEPT
    assert (bob / "adapter").exists()


def test_the_only_copy_is_never_removed(tmp_path):
    keys = sorted(IRREPLACEABLE)
    kept = [keep_something(tmp_path, run, "ada", age_s=run) for run in range(5 + len(keys))]
    old = dict(zip(keys, kept[4:-1], strict=True))
    for key, folder in old.items():
        (folder / key).write_bytes(key.encode() * 100)
        os.utime(folder, (1000, 1000))
    left = prune(tmp_path, "ada", keep=kept[0])
    for key, folder in old.items():
        assert (folder / key).read_bytes() == key.encode() * 100
    # An own adapter is exported with the shared one that it stands on.
    assert sorted(file.name for file in old["own"].iterdir()) == ["adapter", "own"]
    assert sorted(file.name for file in old["moments"].iterdir()) == ["moments"]
    assert not kept[-1].parent.exists()
    there = [folder for folder in kept[1:] if folder.exists()]
    assert left == (len(there), sum(file.stat().st_size for folder in there for file in folder.iterdir()))


@pytest.mark.parametrize("open_before", [False, True])
def test_everything_is_for_its_owner_alone_also_below_a_directory_that_is_open(tmp_path, open_before):
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    folder = memory_folder(state, 1, "ada")
    if open_before:
        folder.mkdir(parents=True)
    before = os.umask(0o022)
    try:
        with locked(state, "ada"):
            for key in ("adapter", "own"):
                DiskMemory(folder).save(key, b"bytes")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*") if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o755


def test_two_nodes_do_not_share_a_name_here(tmp_path):
    with locked(tmp_path, "ada"):
        twice = pytest.raises(ConfigError, match=f"in use by process {os.getpid()}, expected one node per name")
        with twice, locked(tmp_path, "ada"):
            pass
        with locked(tmp_path, "bob"):
            pass
    with locked(tmp_path, "ada"):
        pass


@pytest.mark.slow
def test_a_killed_node_leaves_no_lock_behind(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from client.settings import locked\n"
        "with locked(Path(sys.argv[1]), 'ada'):\n    print('held', flush=True); time.sleep(60)\n"
    )

    def is_held(process: Command) -> None:
        with pytest.raises(ConfigError, match=f"process {process.pid},"), locked(tmp_path, "ada"):
            pass

    killed_after(1, code, tmp_path, before=is_held)
    with locked(tmp_path, "ada"):
        pass
