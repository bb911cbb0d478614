"""Dockerfiles, compose file, units and their pages use commands that plait accepts."""

import json
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import click
import pytest
import typer
import yaml

from plait.cli.app import app

CHECKOUT = Path(__file__).resolve().parents[2]
SIDES = ("server", "client")
PAGES = ("README.md", "server/README.md", "client/README.md", "docs/guides/which-command.md")
UNITS = [CHECKOUT / side / f"plait-{side}.service" for side in SIDES]


def takes(arguments: list[str]) -> None:
    """Let plait's own parser read a command, all but what it would do."""
    group = typer.main.get_command(app)
    verb, *rest = arguments[1:]
    assert Path(arguments[0]).name == "plait"
    name, command, rest = group.resolve_command(click.Context(group), [verb, *rest])
    command.make_context(name, rest)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def instruction(side: str, name: str) -> str:
    (value,) = [value for key, value in instructions(CHECKOUT / side / "Dockerfile") if key == name]
    return value


def entry_point(side: str) -> list[str]:
    return json.loads(instruction(side, "ENTRYPOINT"))


def health(side: str) -> list[str]:
    return json.loads(instruction(side, "HEALTHCHECK").partition("CMD")[2])


def commands(page: Path) -> list[str]:
    """The plait commands in a page's blocks of code."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = "".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0] for line in lines if re.match(r"(sudo -u plait )?(\S*/)?plait ", line)]


def arguments(command: str) -> list[str]:
    return [word for word in shlex.split(command.removeprefix("sudo -u plait ")) if word != "…"]


@pytest.mark.parametrize("page", [*PAGES, *sorted(CHECKOUT.glob("docs/guides/*.md"))])
def test_the_commands_of_a_page_are_commands(page):
    found = commands(CHECKOUT / page)
    assert found or page not in PAGES
    for command in found:
        takes(arguments(command))


@pytest.mark.parametrize("side", SIDES)
class TestDockerfiles:
    def test_it_runs_as_somebody_else_than_root(self, side):
        assert instruction(side, "USER") == "plait"
        assert instructions(CHECKOUT / side / "Dockerfile")[-1][0] == "ENTRYPOINT"

    def test_packages_are_installed_by_hash_and_nothing_pulls_in_others(self, side):
        runs = " ".join(value for key, value in instructions(CHECKOUT / side / "Dockerfile") if key == "RUN")
        installs = [command for command in re.split(r"&&|;|then", runs) if "$pip " in command]
        assert [command for command in installs if "--require-hashes --requirement /constraints.txt" in command]
        torch = "--constraint /constraints-torch.txt torch"
        assert all("--no-deps" in command or command.strip().endswith(torch) for command in installs)

    def test_what_is_downloaded_and_run_is_checked_against_a_digest_first(self, side):
        (run,) = [
            value for key, value in instructions(CHECKOUT / side / "Dockerfile") if key == "RUN" and "curl" in value
        ]
        assert re.search(
            r'curl [^&]*"\$RUSTUP" -o (\S+) .*&& echo "\$RUSTUP_SHA256  \1" \| sha256sum --check --strict .*&& \1 ', run
        )
        assert "sh /" not in run


def test_the_entry_points_and_the_servers_health_are_commands():
    takes([*entry_point("server"), "--min-clients", "3"])
    takes([*entry_point("client"), "--server", "localhost:9440", "--data", "my.jsonl"])
    takes(health("server"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="a system without /proc")
def test_a_client_is_healthy_while_a_connection_stands():
    command, options, pattern, *tables = health("client")
    assert command == "grep"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        assert subprocess.run([command, options, pattern, *tables], check=False).returncode == 0
    listening = "   0: 0100007F:24E0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
    done = subprocess.run([command, options, pattern], input=listening, text=True, check=False)
    assert done.returncode == 1


class TestCompose:
    @pytest.fixture
    def services(self):
        return yaml.safe_load((CHECKOUT / "server" / "compose.yaml").read_text())["services"]

    def test_it_is_a_server_and_two_clients_that_the_run_waits_for(self, services):
        assert set(services) == {"server", "alice", "bob"}
        command = services["server"]["command"]
        assert command[command.index("--min-clients") + 1] == str(len(services) - 1)

    def test_what_containers_run_are_commands(self, services):
        for name, service in services.items():
            side = "server" if name == "server" else "client"
            assert service["build"]["dockerfile"] == f"{side}/Dockerfile"
            takes([*entry_point(side), *service["command"]])

    def test_no_service_sees_anothers_kit_or_data(self, services):
        for name, service in services.items():
            others = set(services) - {name}
            mounted = " ".join(service["volumes"])
            assert not [other for other in others if re.search(rf"\b{other}\b", mounted)], mounted
            assert all(volume.endswith(":ro") for volume in service["volumes"] if "/var/lib/plait" not in volume)

    def test_the_kits_are_those_that_its_first_lines_make(self, services):
        text = (CHECKOUT / "server" / "compose.yaml").read_text()
        (command,) = [line[1:].strip() for line in text.splitlines() if line.strip("# ").startswith("plait provision")]
        takes(arguments(command))
        words = shlex.split(command)
        directory, names = words[2], words[words.index("--server-name") + 1].split(",")
        assert services["server"]["volumes"][0] == f"./{directory}/server:/kit:ro"
        for client in ("alice", "bob"):
            assert services[client]["volumes"][0] == f"./{directory}/clients/{client}:/kit:ro"
            assert client in words[words.index("--clients") + 1].split(",")
            server = services[client]["command"][services[client]["command"].index("--server") + 1]
            assert server.partition(":")[0] in names
        assert "localhost" in names, "the health check asks there"


@pytest.mark.parametrize("unit", UNITS, ids=SIDES)
class TestUnits:
    def test_what_it_runs_is_a_command(self, unit):
        text = unit.read_text().replace("\\\n", " ")
        (command,) = re.findall(r"^ExecStart=(.*)$", text, flags=re.MULTILINE)
        words = shlex.split(command.replace("${SERVER}", "localhost:9440").replace("${DATA}", "my.jsonl"))
        takes([word for word in words if word != "$OPTIONS"])

    def test_systemd_has_nothing_to_say_against_it(self, unit, tmp_path):
        if shutil.which("systemd-analyze") is None:
            pytest.skip("needs systemd-analyze")
        # The program need not be there, and its user neither.
        copy = tmp_path / unit.name
        copy.write_text(re.sub(r"/opt/plait/bin/plait", shutil.which("true") or "/bin/true", unit.read_text()))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
        )
        said = [line for line in done.stderr.splitlines() if unit.name in line]
        assert not said
