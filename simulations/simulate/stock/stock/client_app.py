"""A client: load the model, take the adapter in, train, send it back."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import DataLoader, TensorDataset

from stock.task import get_model, get_rows

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Some steps of AdamW on this client's rows."""
    config = context.run_config
    rows = get_rows(config, int(context.node_config["partition-id"]))
    model = get_model(config)
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=float(config["learning-rate"]), weight_decay=0.0)
    loader = DataLoader(TensorDataset(rows), batch_size=int(config["batch-size"]), shuffle=True, drop_last=True)
    losses = []
    while len(losses) < int(config["local-steps"]):
        for (batch,) in loader:
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == int(config["local-steps"]):
                break
    content = RecordDict(
        {
            "arrays": ArrayRecord(get_peft_model_state_dict(model)),
            "metrics": MetricRecord({"train_loss": sum(losses) / len(losses), "num-examples": len(rows)}),
        }
    )
    return Message(content=content, reply_to=message)
