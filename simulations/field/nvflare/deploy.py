"""NVFlare's server and clients as its provisioning starts them, over mutual TLS; an administrator submits the job."""

import json
import subprocess
import sys
from pathlib import Path

from recipe import allow

HERE = Path(__file__).resolve().parent
USER = "admin@field.org"
configuration, out = (Path(each).absolute() for each in sys.argv[1:])
told = json.loads(configuration.read_text())
commands, kits = Path(sys.executable).parent, out / "field" / "prod_00"
proxy = {"connect_to": {"host": "localhost", "port": told["proxy_port"]}}
people = [
    {"name": "localhost", "type": "server", "org": "field", "fed_learn_port": told["ports"][0]},
    *({"name": each["name"], "type": "client", "org": "field", **proxy} for each in told["clients"]),
    {"name": USER, "type": "admin", "org": "field", "role": "project_admin"},
]
parts = {
    "workspace.WorkspaceBuilder": {"template_file": ["master_template.yml"]},
    "static_file.StaticFileBuilder": {"config_folder": "config"},
    "cert.CertBuilder": {},
    "signature.SignatureBuilder": {},
}
builders = [{"path": f"nvflare.lighter.impl.{name}", "args": given} for name, given in parts.items()]
project = {"api_version": 3, "name": "field", "participants": people, "builders": builders}
(out / "project.yml").write_text(json.dumps(project))
provision = [commands / "nvflare", "provision", "-p", out / "project.yml", "-w", out, "--force"]
subprocess.run(provision, check=True, stdout=sys.stderr)
names = ["localhost", *(each["name"] for each in told["clients"])]
for name in names:
    local = kits / name / "local"
    given = (local / "resources.json.default").read_text().replace("/tmp/nvflare", str(out / "stored"))
    allow(local, json.loads(given))
start = {name: ["bash", str(kits / name / "startup" / "sub_start.sh"), "--once"] for name in names}
processes = [{"name": "server", "command": start.pop("localhost")}]
processes += [{"name": name, "command": command} for name, command in start.items()]
submit = [sys.executable, HERE / "submit.py", configuration, out, kits / USER, USER]
processes.append({"name": "submit", "command": [str(part) for part in submit]})
adapter = out / f"adapter-{told['rounds']}"
plan = {
    "last": str(adapter / "adapter_model.safetensors"), "adapter": str(adapter),
    "environment": {"PYTHONPATH": f"{HERE}:{HERE.parent / 'given'}"},
    "cannot": {"stalled, deadline set": "its recipe has no deadline"},
}  # fmt: skip
print(json.dumps({"processes": processes, **plan}))
