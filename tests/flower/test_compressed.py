"""A small app with plait's mod and strategy on Flower's own SuperLink; a SuperNode is killed and brought back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flower import test_engines
from tests.flower.test_engines import CHECKOUT, LONGEST_S, SCRIPTS, free_ports

pytestmark = [pytest.mark.flower, pytest.mark.slow]

folder, tools = test_engines.folder, test_engines.tools

PROJECT = """
[project]
name = "loop"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.flwr.app]
publisher = "loop"
[tool.flwr.app.components]
serverapp = "loop:server"
clientapp = "loop:client"
[tool.flwr.app.config]
log = ""
"""
APP = """
import hashlib, json, time
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from plait.flower import Compressed, compression_mod

client = ClientApp(mods=[compression_mod])
server = ServerApp()

def note(context, **line):
    with open(context.run_config["log"], "a") as file:
        file.write(json.dumps(line) + "\\n")

@client.train()
def train(message, context):
    array = message.content["arrays"]["w"].numpy()
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:8]
    held = sorted(name for name in context.state if name.startswith("plait"))
    note(context, node=context.node_config["name"], round=message.content["config"]["server-round"], holds=digest,
         state=len(context.state["plait.compress.arrays"]))
    wanted = np.random.default_rng(1).normal(size=array.shape)
    after = (array + 0.3 * (wanted - array)).astype(np.float32)
    content = {"arrays": ArrayRecord({"w": Array(after)}), "metrics": MetricRecord({"num-examples": 1.0})}
    return Message(RecordDict(content), reply_to=message)

@server.main()
def main(grid, context):
    class Counting(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            note(context, round=server_round, answers=sum(reply.has_content() for reply in replies),
                 errors=[reply.error.reason for reply in replies if reply.has_error()])
            return super().aggregate_train(server_round, replies)

    strategy = Counting(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    arrays = ArrayRecord({"w": Array(np.zeros((64, 64), np.float32))})
    Compressed(strategy).start(grid=grid, initial_arrays=arrays, num_rounds=1000)
"""


class Deployment:
    """A SuperLink and the processes around it, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.processes = folder, free_ports(3), []
        script = f'CHECKOUT={CHECKOUT}; . "{SCRIPTS}/quiet.sh"; env -0'
        quiet = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
        self.environment = dict(entry.split("=", 1) for entry in quiet.decode().split("\0") if entry)
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "PLAIT_CACHE": str(folder / "cache"),
        }
        self.log = folder / "log.jsonl"

    def start(self, name: str, *command: object) -> subprocess.Popen:
        """In a session of its own, so that it can be killed with what it started."""
        environment = self.environment | {"FLWR_HOME": str(self.folder / name)}
        with (self.folder / f"{name}.log").open("a") as log:
            started = subprocess.Popen(
                [str(part) for part in command], env=environment, cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(started)
        return started

    def node(self, name: str, port: int) -> subprocess.Popen:
        return self.start(
            name, "flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--port", self.port + port,
            "--root-certificates", "keys/ca.crt", "--auth-supernode-private-key", f"keys/{name}.key",
            "--node-config", f'name="{name}"',
        )  # fmt: skip

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def wait_for_a_round(self, *, after: int, answers: int) -> int:
        end = time.monotonic() + LONGEST_S
        while True:
            for line in self.lines():
                if line["round"] > after and line.get("answers") == answers:
                    return line["round"]
            logs = "".join(f"\n{path.name}:\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))
            assert time.monotonic() < end, f"no round after {after} has {answers} answers: {self.lines()}{logs}"
            time.sleep(0.2)

    def kill(self, process: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def deployment(folder, tools):
    subprocess.run(
        [SCRIPTS / "certificates.sh", folder / "keys", "127.0.0.1", "north", "south"], check=True, capture_output=True
    )
    made = Deployment(folder)
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "loop.py").write_text(APP)
    operator = folder / "operator"
    operator.mkdir()
    config = (SCRIPTS / "config.toml").read_text()
    config = config.replace("127.0.0.1:8000", f"127.0.0.1:{made.port}").replace("/etc/plait", str(folder / "keys"))
    (operator / "config.toml").write_text(config)
    try:
        yield made
    finally:
        for process in reversed(made.processes):
            made.kill(process)
        # What a killed process had started may take a minute to notice.
        while left := test_engines.using(folder):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def test_a_killed_supernode_comes_back_and_all_train_from_the_adapter_that_the_server_decodes_against(deployment):
    keys = [f"--ssl-{kind}file" for kind in ("ca-cert", "cert", "key")]
    files = [f"keys/{name}" for name in ("ca.crt", "superlink.crt", "superlink.key")]
    tls = [part for pair in zip(keys, files, strict=True) for part in pair]
    deployment.start(
        "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", deployment.port, "--enable-supernode-auth",
        *tls,
    )  # fmt: skip
    for name in ("north", "south"):
        command = ["flwr", "supernode", "register", f"keys/{name}.key.pub"]
        environment = deployment.environment | {"FLWR_HOME": str(deployment.folder / "operator")}
        end = time.monotonic() + LONGEST_S
        while subprocess.run(command, env=environment, cwd=deployment.folder, capture_output=True).returncode:
            assert time.monotonic() < end
            time.sleep(0.5)
    north, _ = deployment.node("north", 1), deployment.node("south", 2)
    settings = f'log="{deployment.log}"'
    deployment.start("operator", "flwr", "run", deployment.folder / "app", "--run-config", settings)
    second = deployment.wait_for_a_round(after=1, answers=2)
    deployment.kill(north)
    # Once the node has missed its heartbeats, the SuperLink answers in its place, and lets it in again.
    lost = deployment.wait_for_a_round(after=second, answers=1)
    deployment.node("north", 1)
    deployment.wait_for_a_round(after=lost, answers=2)
    lines = deployment.lines()
    held = {}
    for line in lines:
        if "node" in line:
            held.setdefault(line["round"], set()).add(line["holds"])
    assert all(len(each) == 1 for each in held.values()), held
    assert not any("refused by plait" in error for line in lines for error in line.get("errors", []))
    back = next(line for line in lines if line.get("node") == "north" and line["round"] > lost)
    assert back["state"] == 2  # with nothing owed
