"""The field: an outsider's entrant takes part with one folder, and the table is that of the committed rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plait.training.tiny import unpack_tiny

FIELD = Path(__file__).parents[2] / "simulations" / "field"
RUN = '''
"""Learns nothing, but takes part: every client gets the adapter and sends it back."""

from work import Work, load, mean, save, state_of

work = Work.from_arguments()
shared = state_of(work.model())
work.finished(0, shared)
for number in range(1, work.told["rounds"] + 1):
    received = [load(work.sent(number, client, "down", save(shared))) for client in work.clients]
    answers = [load(work.sent(number, client, "up", save(state))) for client, state in zip(work.clients, received)]
    shared = mean(answers, [1.0] * len(answers))
    work.finished(number, shared)
'''
FILES = {
    "run.py": RUN,
    "requirements.txt": "torch==2.13.0\ntransformers==5.24.0\npeft==0.21.2\nsafetensors==0.8.0\n",
    "entrant.json": '{"variants": {"": {}}, "fixes": "nothing is learned"}',
}


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FIELD)
    for name in ("run", "check"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import check
    import run

    yield run, check
    for name in ("run", "check"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def told(folder: Path) -> dict[str, object]:
    """A federation of two clients with some tokens each."""
    draw = torch.Generator().manual_seed(0)
    clients = []
    for name in ("ada", "ben"):
        parts = {part: torch.randint(0, 2048, (2, 8), generator=draw) for part in ("train", "held_out")}
        save_file(parts, folder / f"{name}.safetensors")
        clients.append({"name": name, "sequences": str(folder / f"{name}.safetensors")})
    return {
        "base": str(unpack_tiny()), "clients": clients, "rounds": 1, "rank": 2, "alpha": 4, "targets": ["q_proj"],
        "dtype": "float32", "threads": 1, "seed": 0, "learning_rate": None, "variant": {},
    }  # fmt: skip


@pytest.mark.slow
def test_a_fifth_entrant_is_one_folder_of_less_than_60_lines(field, tmp_path: Path) -> None:
    run, check = field
    assert sum(len(text.splitlines()) for text in FILES.values()) < 60
    (tmp_path / "stub").mkdir()
    for name, text in FILES.items():
        (tmp_path / "stub" / name).write_text(text)
    (stub,) = run.entrants(tmp_path)
    row = run.measured({"cell": "stub", "setting": "default", "rate": None}, stub, told(tmp_path), Path(sys.executable))
    assert "failed" not in row, row["failed"]
    assert row["losses"]["1"] == pytest.approx(row["losses"]["base"], abs=1e-5)
    # Query projections of four layers, from 128 to 128 numbers at rank 2, in float32.
    assert all(each["bytes"] > 4 * 4 * 2 * (128 + 128) for each in row["bytes"])
    assert [(each["client"], each["direction"]) for each in row["bytes"]] == [
        (client, way) for client in ("ada", "ben") for way in ("down", "up")
    ]
    assert "| stub | default |" in check.table([row])[-1]


@pytest.mark.slow
def test_an_entrant_that_fails_is_told_with_its_last_words(field, tmp_path: Path) -> None:
    run, _ = field
    (tmp_path / "stub").mkdir()
    for name, text in {**FILES, "run.py": "raise SystemExit('no such thing')"}.items():
        (tmp_path / "stub" / name).write_text(text)
    (stub,) = run.entrants(tmp_path)
    assert "no such thing" in run.measured({}, stub, {}, Path(sys.executable))["failed"]


def test_every_entrant_here_pins_what_it_runs_on(field) -> None:
    run, _ = field
    found = run.entrants()
    assert {"plait", "peft", "flower", "nvflare"} <= {entrant.name for entrant in found}
    for entrant in found:
        assert (entrant.folder / "run.py").exists()
        wanted = (entrant.folder / "requirements.txt").read_text().split()
        assert all("==" in each or each == "." for each in wanted)


def test_the_page_has_the_table_of_the_committed_rows(field) -> None:
    _, check = field
    rows = [json.loads(line) for line in (FIELD / "results-quick.jsonl").read_text().splitlines()]
    assert "\n".join(check.table(rows)) in (FIELD / "README.md").read_text()


def test_rows_of_different_work_make_no_table(field) -> None:
    _, check = field
    rows = [{"setting": "default", "losses": {"base": {"ada": loss}}} for loss in (1.0, 2.0)]
    with pytest.raises(ValueError, match="different losses of the base"):
        check.table(rows)
