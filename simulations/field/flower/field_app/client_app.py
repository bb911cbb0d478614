"""A client: load the model, take the adapter in, train at the round's rate, send the adapter back in float32."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_to_proto
from work import cosine

from field_app.given import work_of

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round of this client's."""
    work = work_of(context)
    client = work.clients[int(context.node_config["partition-id"])]
    number = int(message.content["config"]["server-round"])
    work.sent(number, client, "down", recorddict_to_proto(message.content).SerializeToString())
    highest = work.told["learning_rate"] or 5e-5
    rate = cosine(number, work.told["rounds"], highest, highest / 50)
    state = message.content["arrays"].to_torch_state_dict()
    state, loss = work.train(work.model(), state, client, number, rate)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(work.sequences(client))})
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": metrics})
    work.sent(number, client, "up", recorddict_to_proto(content).SerializeToString())
    return Message(content=content, reply_to=message)
