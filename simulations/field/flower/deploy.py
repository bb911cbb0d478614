"""Flower's SuperLink and a SuperNode per client over TLS, and `flwr run`, which submits the app and follows it."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
configuration, out = (Path(each).absolute() for each in sys.argv[1:])
told = json.loads(configuration.read_text())
port, *nodes = told["ports"]
commands, keys = Path(sys.executable).parent, out / "keys"
keys.mkdir()
name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext"]
made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", *name, "basicConstraints=CA:TRUE"]
subprocess.run([*made, "-keyout", keys / "key.pem", "-out", keys / "certificate.pem"], check=True, capture_output=True)
home = out / "home"
home.mkdir()
(home / "config.toml").write_text(
    f'[superlink]\ndefault = "field"\n\n[superlink.field]\naddress = "localhost:{port}"\n'
    f'root-certificates = "{keys / "certificate.pem"}"\n'
)
(out / "run.toml").write_text(f'configuration = "{configuration}"\nout = "{out}"\n')
link = [
    commands / "flower-superlink", "--ssl-ca-certfile", keys / "certificate.pem", "--ssl-certfile",
    keys / "certificate.pem", "--ssl-keyfile", keys / "key.pem", "--host", "127.0.0.1", "--port", port,
]  # fmt: skip
processes = [{"name": "server", "command": [str(part) for part in link]}]
for number, client in enumerate(told["clients"]):
    node = [
        commands / "flower-supernode", "--root-certificates", keys / "certificate.pem", "--superlink",
        f"localhost:{told['proxy_port']}", "--host", "127.0.0.1", "--port", nodes[number], "--node-config",
        f"partition-id={number}",
    ]  # fmt: skip
    processes.append({"name": client["name"], "command": [str(part) for part in node]})
run = [commands / "flwr", "run", HERE, "--run-config", out / "run.toml", "--stream"]
submit = f"until {' '.join(map(str, run))}; do sleep 3; done; sleep 3600"
processes.append({"name": "flwr run", "command": ["bash", "-c", submit]})
adapter = out / f"adapter-{told['rounds']}"
environment = {
    "FLWR_HOME": str(home),
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
plan = {"last": str(adapter / "adapter_model.safetensors"), "adapter": str(adapter), "environment": environment}
print(json.dumps({"processes": processes, **plan}))
