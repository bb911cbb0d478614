"""The server: Flower's FedAvg over all clients; each round's adapter is kept."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from work import state_of

from field_app.given import work_of

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    work = work_of(context)

    def keep(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        work.finished(server_round, arrays.to_torch_state_dict())
        return MetricRecord()

    count, taken = len(work.clients), work.told["per_round"]
    FedAvg(fraction_train=taken / count, fraction_evaluate=0.0, min_train_nodes=taken, min_available_nodes=count).start(
        grid=grid,
        initial_arrays=ArrayRecord(state_of(work.model())),
        num_rounds=work.told["rounds"],
        timeout=work.told.get("deadline_s") or 3600,  # Flower's own
        evaluate_fn=keep,
    )
