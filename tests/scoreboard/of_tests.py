"""Rows whose claims are tests that stand elsewhere, run in a process that may lack a defence."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from scoreboard.row import Row

TESTS = Path(__file__).resolve().parents[1]
OF_TESTS: Mapping[str, Sequence[str]] = {
    "hostile": (
        "plait/wire/test_hostile.py", "plait/adapters/test_peft_settings.py", "plait/training/test_hostile_adapters.py",
        "plait/rounds/test_terms.py", "plait/rounds/test_participant.py", "plait/test_policy.py", "plait/test_run.py",
        "plait/test_plugins.py", "plait/test_welcome.py", "client/test_base.py", "client/test_consent.py",
        "client/test_policy_over_grpc.py",
    ),
    "privacy": (
        "plait/privacy/test_mechanism.py", "plait/privacy/test_noise.py", "plait/privacy/test_private_rounds.py",
        "plait/secagg/test_exchange.py", "plait/secagg/test_noised_rounds.py", "plait/wire/test_vectors.py",
        "plait/test_settle.py::test_a_private_run_turns_off_what_reads_single_clients_and_its_noise_follows_from_epsilon_and_rounds",
    ),
    "members": (
        "server/test_guard.py", "server/test_memory.py", "server/test_service.py", "plait/rounds/test_roster.py",
    ),
    "names": (
        "plait/report/test_html.py", "plait/report/test_terminal.py", "plait/report/test_status.py",
        "plait/report/test_wording.py", "plait/report/test_theme.py", "plait/report/test_plots.py",
        "plait/rounds/test_run_directory.py", "plait/trust/test_names.py", "plait/system/test_text.py",
        "plait/adapters/test_peft.py", "plait/adapters/test_safetensors.py", "server/test_log.py",
        "client/test_journal.py", "plait/cli/test_main.py::test_an_error_is_one_line_that_no_terminal_takes_for_more",
    ),
    "planted": (
        "plait/training/test_bridge.py", "plait/test_plugins.py", "plait/test_apps.py",
        "plait/cli/test_main.py::test_python_that_plait_starts_does_not_look_into_the_current_directory",
        "plait/data/test_packages.py", "plait/report/test_theme.py", "plait/system/test_compiler.py",
        "plait/system/test_files.py", "plait/system/test_cache.py", "plait/adapters/test_fingerprint.py",
        "plait/simulation/test_remembered.py", "plait/training/test_bases.py", "client/test_settings.py",
        "deployment/test_private_files.py",
    ),
    "door": (
        "server/test_guard.py", "server/test_memory.py", "server/test_service.py", "server/test_attendance.py",
        "plait/page/test_app.py",
    ),
    "malformed": (
        "plait/wire/test_hostile.py", "plait/rounds/test_validate.py", "plait/rounds/test_coordinator.py",
        "plait/rounds/test_roster.py", "plait/wire/codecs/test_contract.py",
    ),
    "forged": (
        "plait/rounds/test_validate.py", "plait/rounds/test_coordinator.py", "server/test_service.py",
        "server/test_nodes_channel.py",
    ),
    "server_alone": (
        "plait/secagg/test_journal.py", "plait/secagg/test_events.py", "plait/rounds/test_memory.py",
        "plait/privacy/test_client.py", "plait/rounds/test_data_journal.py", "client/test_consent.py",
        "plait/secagg/test_masked_rounds.py::test_a_refusal_states_no_count",
        "plait/secagg/test_masked_rounds.py::test_a_client_without_a_journal_unmasks_no_round_that_it_was_asked_for",
        "plait/secagg/test_masked_rounds.py::test_a_server_that_wants_another_attempt_after_an_unmasking_is_refused",
    ),
    "private_records": (
        "plait/privacy/test_record.py", "plait/privacy/test_mechanism.py", "plait/training/test_private_steps.py",
    ),
    "one_member": ("plait/secagg/test_one_member.py",),
}  # fmt: skip
"""The tests of each row, below `tests/`."""


def row_of_tests(row: str, scratch: Path) -> Row:
    return Row.of(row, complaints_of(OF_TESTS[row], scratch), least=10)


def complaints_of(tests: Sequence[str], scratch: Path) -> dict[str, str]:
    """What is wrong with each test, empty where it passes; without a defence, up to the first that fails."""
    if "PLAIT_SCOREBOARD_WITHOUT" not in os.environ:
        return _ran(tests, scratch, [], dict(os.environ))
    path = os.pathsep.join([str(TESTS / "scoreboard/without"), os.environ["PYTHONPATH"]])
    found: dict[str, str] = {}
    for speed in ("not slow", "slow"):
        # What a defence is taken out of may have been imported before pytest could rewrite it.
        options = ["-x", "-m", speed, "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        found |= _ran(tests, scratch, options, {**os.environ, "PYTHONPATH": path})
        if any(found.values()):
            break
    return found


def _ran(tests: Sequence[str], scratch: Path, more: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    report = scratch / "tests.xml"
    options = ["-q", "-n", "0", "--tb=native", "-o", "addopts=--strict-markers --import-mode=importlib -p no:logging"]
    paths = [str(TESTS / each) for each in tests]
    command = [sys.executable, "-m", "pytest", *options, *more, f"--junit-xml={report}", *paths]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 5) or not report.exists():  # 5: none of them is so fast or slow
        raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    # Where the last frame is that of a mutation, it is the mutation's own fault.
    sys.stderr.write(done.stdout if done.returncode == 1 else "")
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            wrong = next((each for each in case if each.tag in ("failure", "error")), None)
            name = f"{case.get('classname')}.{case.get('name')}".removeprefix("tests.")
            found[name] = f"fails: {wrong.get('message')}" if wrong is not None else ""
    return found
