"""A client by NVFlare's client API: receive the adapter, train, send it back in float32."""

import json
import sys
from pathlib import Path

import nvflare.client as flare
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from work import Work

work = Work(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
torch.set_num_threads(work.told["threads"])
rate = work.told["learning_rate"] or 5e-4
flare.init()
client = flare.get_site_name()
model = work.model()
while flare.is_running():
    received = flare.receive()
    state = {name: torch.as_tensor(tensor) for name, tensor in received.params.items()}
    state, loss = work.train(model, state, client, received.current_round + 1, rate)
    flare.send(FLModel(params=state, metrics={"loss": loss}, meta={"NUM_STEPS_CURRENT_ROUND": work.told["steps"]}))
