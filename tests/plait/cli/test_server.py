import tomllib

import pytest

from plait.api.serving import Serving


@pytest.mark.slow
def test_a_run_that_is_over_is_not_served_again(plait, finished):
    ran = plait("server", "--insecure", "--out", finished)
    assert (ran.code, "holds a finished run" in ran.err) == (2, True)


@pytest.mark.slow
def test_a_simulated_run_is_not_served(plait, finished):
    ledger = finished / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    ran = plait("server", "--insecure", "--out", finished)
    assert (ran.code, "holds a simulated run; `plait resume" in ran.err) == (2, True)


@pytest.mark.slow
def test_resume_serves_a_served_run_where_it_was_served(plait, finished, tmp_path):
    ledger = finished / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    kit = tmp_path / "moved-kit"
    Serving(listen="127.0.0.1:1", kit=str(kit), metrics="", grace_s=1.0, run_number=7).save(finished / "server.toml")
    settings = tomllib.loads((finished / "config.toml").read_text())
    named = (f"data={settings['data']}", "listen=127.0.0.1:1", f"kit={kit}")
    ran = plait("resume", finished, *(word for each in named for word in ("--allow", each)))
    assert (ran.code, f"kit '{kit}' is not" in ran.err) == (2, True), ran.err
