"""The server: Flower's FedAvg, which saves the adapter after the last round and notes when each round was over."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from stock.task import get_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds."""
    config = context.run_config
    model = get_model(config)
    out, rounds = Path(str(config["out"])), int(config["num-server-rounds"])
    times: list[float] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        times.append(time.time())
        if server_round == rounds:
            set_peft_model_state_dict(model, arrays.to_torch_state_dict())
            model.save_pretrained(out / "adapter")
            (out / "times.json").write_text(json.dumps(times))
        return MetricRecord()

    FedAvg(fraction_evaluate=0.0).start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(model)),
        num_rounds=rounds,
        evaluate_fn=evaluate,
    )
