"""NVFlare's simulator, whose server starts its clients; a deployment of its own processes is not written here."""

import json
import sys
from pathlib import Path

configuration, out = (Path(each).absolute() for each in sys.argv[1:])
told = json.loads(configuration.read_text())
command = [sys.executable, str(Path(__file__).parent / "run.py"), str(configuration), str(out)]
adapter = out / f"adapter-{told['rounds']}"
plan = {"last": str(adapter / "adapter_model.safetensors"), "adapter": str(adapter)}
print(json.dumps({"processes": [{"name": "server", "command": command}], **plan}))
