"""FlowerTune's way on Flower's simulation engine: `flwr run` with one client at a time in a Ray worker."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMANDS = Path(sys.executable).parent
configuration, out = (Path(each).absolute() for each in sys.argv[1:])
told = json.loads(configuration.read_text())
with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    port = found.getsockname()[1]
home = out / "home"
home.mkdir(exist_ok=True)
(home / "config.toml").write_text(
    f'[superlink]\ndefault = "field"\n\n[superlink.field]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
)
(out / "run.toml").write_text(f'configuration = "{configuration}"\nout = "{out}"\n')
environment = os.environ | {
    "FLWR_HOME": str(home),
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}",
}
last = out / f"adapter-{told['rounds']}" / "adapter_model.safetensors"
engine = f"num-supernodes={len(told['clients'])} client-resources-num-cpus={os.cpu_count()}"
link = subprocess.Popen(
    [COMMANDS / "flower-superlink", "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port)],
    env=environment, cwd=out, stdout=sys.stderr,
)  # fmt: skip
try:
    while link.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.2)
    command = [
        COMMANDS / "flwr",
        "run",
        HERE,
        "--run-config",
        out / "run.toml",
        "--federation-config",
        engine,
        "--stream",
    ]
    subprocess.run(command, check=True, env=environment, cwd=out, stdout=sys.stderr)
finally:
    link.terminate()
    link.wait()
# The stream ends well for a failed run too.
sys.exit(None if last.exists() else "the run left no last adapter")
