"""plait's server and clients over gRPC with TLS; nothing set but the work."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
configuration, out = (Path(each).absolute() for each in sys.argv[1:])
told = json.loads(configuration.read_text())
given, names = told["plait"], [client["name"] for client in told["clients"]]
plait = [sys.executable, "-m", "plait.cli.main"]
kits = out / "kits"
provision = [*plait, "provision", kits, "--clients", ",".join(names), "--server-name", "localhost"]
subprocess.run(provision, check=True, stdout=sys.stderr)
settings = {
    "base": given["base"], "rounds": told["rounds"], "local-steps": told["steps"], "batch-size": told["batch"],
    "seq-len": told["seq_len"], "seed": told["seed"], "dtype": told["dtype"], "threads": told["threads"],
    # The adapter is judged outside, on the same sequences as the others'.
    "max-held-out-sequences": given["max_held_out_sequences"], "judge-part": 0,
    "out": out / "run", "publish": out / "published",
}  # fmt: skip
if told["deadline_s"]:
    settings["deadline-s"] = told["deadline_s"]
server = [*plait, "server", "--kit", kits / "server", "--listen", f"127.0.0.1:{told['ports'][0]}"]
server += ["--min-clients", len(names), *(part for name, value in settings.items() for part in (f"--{name}", value))]
processes = [{"name": "server", "command": [str(part) for part in server]}]
for client in told["clients"]:
    command = [
        sys.executable, HERE / "client.py", configuration, out, client["name"], "client", "--kit",
        kits / "clients" / client["name"], "--server", f"localhost:{told['proxy_port']}", "--data", client["records"],
        "--state", out / "state" / client["name"], "--threads", told["threads"], "--dtype", told["dtype"], "--yes",
    ]  # fmt: skip
    processes.append({"name": client["name"], "command": [str(part) for part in command]})
plan = {"last": str(out / "run" / "summary.json"), "adapter": str(out / "run" / "adapter")}
print(json.dumps({"processes": processes, **plan}))
