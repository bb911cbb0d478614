"""What a release of plait wrote is read as it was meant; a field less is noticed; another format is one clear error."""

import json
import math
import shutil
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from plait.errors import PlaitError
from plait.evidence.envelope import Signer, enveloped, opened
from plait.ledger.ledger import canonical
from plait.trust.keys import new_key, read_certificate
from tests.formats.specimens import FORMATS, HERE, MEANINGS, meaning

RELEASES = sorted(path.parent for path in HERE.glob(f"*/{MEANINGS}"))
EACH = [pytest.param(release, name, id=f"{name} of {release.name}") for release in RELEASES for name in FORMATS]


@pytest.fixture(autouse=True)
def _on_the_day_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of kits are valid for two years; their format for longer."""
    first = min(read_certificate(path).not_valid_before_utc for path in HERE.glob("*/kit/*/*.crt"))

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return first.replace(microsecond=1).astimezone(tz) if tz else first

    monkeypatch.setattr("plait.trust.kit.datetime", Then)


def lacks(said: Any, found: Any, at: str = "") -> Iterator[str]:
    """What was said once and is not found; more may be. The last bits of a sum are each machine's own."""
    if isinstance(said, dict) and isinstance(found, dict):
        for key in said:
            yield from lacks(said[key], found[key], f"{at}.{key}") if key in found else [f"{at}.{key}"]
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        for index, pair in enumerate(zip(said, found, strict=True)):
            yield from lacks(*pair, f"{at}.{index}")
    elif said != found and not (isinstance(said, float) and math.isclose(said, found, rel_tol=1e-9)):
        yield f"{at}: {found!r:.60}, expected {said!r:.60}"


@pytest.mark.parametrize(("release", "name"), EACH)
def test_a_specimen_says_what_it_said(release, name, tmp_path):
    folder = shutil.copytree(release, tmp_path / "copy")
    assert [*lacks(json.loads((release / MEANINGS).read_text())[name], meaning(name, folder))] == []


def paths_in(value: Any) -> Iterator[tuple[str, ...]]:
    """The place of every field of an object."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (key,)
        yield from ((key, *rest) for rest in paths_in(inner))


def without(value: Any, path: tuple[str, ...]) -> bytes:
    """An object without one field, as JSON."""
    copy = inner = json.loads(json.dumps(value))
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(copy).encode()


def fewer(file: Path) -> Iterator[tuple[str, bytes | None]]:
    """What a file holds without one of its fields, for each; None without the file."""
    data = file.read_bytes()
    yield "whole", None
    if file.suffix == ".json":
        yield from ((".".join(path), without(json.loads(data), path)) for path in paths_in(json.loads(data)))
    elif file.suffix == ".jsonl":
        lines = data.splitlines(keepends=True)
        kinds = {json.loads(line)["event"]: index for index, line in reversed([*enumerate(lines)])}
        for kind, index in kinds.items():
            for key in json.loads(lines[index]):
                less = without(json.loads(lines[index]), (key,)) + b"\n"
                yield f"{kind}.{key}", b"".join([*lines[:index], less, *lines[index + 1 :]])
    elif file.suffix == ".toml":
        lines = data.splitlines(keepends=True)
        places = [index for index, line in enumerate(lines) if b" = " in line]
        yield from ((lines[at].decode(), b"".join([*lines[:at], *lines[at + 1 :]])) for at in places)
    elif file.suffix == ".hex":
        digits = b"".join(data.split())
        yield from ((str(at), digits[:at] + digits[at + 2 :]) for at in range(0, len(digits), 2))
    elif file.name == "adapter_model.safetensors":
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        own = json.loads(header["__metadata__"]["plait"])
        for path in paths_in(own):
            header["__metadata__"]["plait"] = without(own, path).decode()
            head = json.dumps(header).encode()
            yield ".".join(path), len(head).to_bytes(8, "little") + head + data[8 + size :]


@pytest.mark.parametrize(("release", "name"), EACH)
def test_a_field_less_is_noticed(release, name, tmp_path):
    folder, said = shutil.copytree(release, tmp_path / "copy"), json.loads((release / MEANINGS).read_text())[name]
    top = folder / FORMATS[name][0]
    tried = 0
    for file in [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]:
        if file.name == "README.md" or (name == "run directory" and {"adapter", "ledger.jsonl"} & {*file.parts}):
            continue
        whole = file.read_bytes()
        for what, less in fewer(file):
            file.unlink() if less is None else file.write_bytes(less)
            try:
                noticed = any(lacks(said, meaning(name, folder)))
            except (PlaitError, OSError, ValueError, LookupError, TypeError):
                noticed = True
            file.write_bytes(whole)
            assert noticed, f"{file.name} without {what}"
            tried += 1
    assert tried > 3


def replaced(file: Path, before: str, after: str) -> None:
    """Write something else in a file: in a ledger's first line with its hash, in evidence with a new signature."""
    data = file.read_bytes()
    if is_evidence := file.name == "run.evidence.json":
        signer, said = Signer.of(new_key()), opened(data, what="evidence")
        said["predicate"]["signer"] = dict(signer.described)
        data = canonical(said)
    assert before.encode() in data
    changed = data.replace(before.encode(), after.encode(), 1)
    if file.suffix == ".jsonl":
        line = json.loads(changed.splitlines()[0])
        told = canonical({key: value for key, value in line.items() if key != "hash"})
        changed = canonical(line | {"hash": sha256(told).hexdigest()}) + b"\n"
    file.write_bytes(enveloped(json.loads(changed), signer) if is_evidence else changed)


# Of a file: what stands there, what a later plait would write, and what is said then.
LATER = {
    "settings": ("settings.toml", 'data = "', 'format = 2\ndata = "', "settings.toml' has format 2, expected 1"),
    "ledger": ("run/ledger.jsonl", '"schema_version":1', '"schema_version":2', "ledger has format 2, expected 1"),
    "run directory": (
        "run/checkpoints/round-000002/state.json", '"format": 1', '"format": 2', "state.json has format 2, expected 1",
    ),
    "adapter": (
        "run/adapter/adapter_model.safetensors", r'{\"base_fingerprint\"', r'{\"format\":2,\"was\"',
        "adapter has format 2, expected 1",
    ),
    "evidence": ("run.evidence.json", "/evidence/v1", "/evidence/v2", "bundle is .*/v2, expected .*/v1: take"),
    "kit": ("kit/alice/kit.toml", "name =", "format = 2\nname =", "kit.toml' has format 2, expected 1"),
    "wire": ("wire/task_train_with_more_settings.hex", "0803", "0804", "schema version of the task is 4, expected 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_a_later_format_is_one_clear_error(name, tmp_path):
    folder = shutil.copytree(RELEASES[-1], tmp_path / "copy")
    file, before, after, said = LATER[name]
    replaced(folder / file, before, after)
    with pytest.raises((PlaitError, ValueError), match=said) as refused:
        meaning(name, folder)
    assert "\n" not in str(refused.value)
