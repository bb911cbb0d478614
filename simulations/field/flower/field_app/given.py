"""The work of a run, from Flower's run configuration."""

import json
from pathlib import Path

import torch
from flwr.app import Context
from work import Work


def work_of(context: Context) -> Work:
    """What the run is to do."""
    work = Work(
        json.loads(Path(str(context.run_config["configuration"])).read_text()), Path(str(context.run_config["out"]))
    )
    torch.set_num_threads(work.told["threads"])
    return work
