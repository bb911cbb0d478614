"""`plait client` that notes when it trains, and whose training goes wrong if the configuration says so."""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from work import Work

from plait.cli.main import main
from plait.rounds.local_model import Trained, TrainJob
from plait.training.local_model import PeftLocalModel

configuration, out, client = sys.argv[1:4]
sys.argv = ["plait", *sys.argv[4:]]
work = Work(json.loads(Path(configuration).read_text()), Path(out))
train = PeftLocalModel.train


def watched(model: PeftLocalModel, job: TrainJob) -> Trained:
    """A client's training in a round."""
    number = job.header.round + 1 if job.header else 0  # a broadcast has the number of the round before
    work.sent(number, client, "down", b"")
    trained = train(model, job)
    before, after = (torch.from_numpy(state.flat.copy()) for state in (job.start, trained.state))
    spoiled = work.spoiled(client, number, {"": before}, {"": after})[""]
    return dataclasses.replace(trained, state=dataclasses.replace(trained.state, flat=spoiled.numpy()))


PeftLocalModel.train = watched
main()
