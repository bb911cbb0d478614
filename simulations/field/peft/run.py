"""Federated averaging as a researcher writes it: PEFT, safetensors, and a mean by the clients' numbers of sequences."""

from work import Work, cosine, load, mean, save, state_of

work = Work.from_arguments()
model = work.model()
shared = state_of(model)
rate = work.told["learning_rate"] or 2e-4  # that of QLoRA's and PEFT's examples
is_cosine = work.told["variant"].get("schedule") == "cosine"  # FlowerTune's, to choose its rate by
work.finished(0, shared)
for number in range(1, work.told["rounds"] + 1):
    updates, weights = [], []
    falling = cosine(number, work.told["rounds"], rate, rate / 50)
    for client in work.cohort(number):
        received = load(work.sent(number, client, "down", save(shared)))
        trained, _ = work.train(model, received, client, number, falling if is_cosine else rate)
        updates.append(load(work.sent(number, client, "up", save(trained))))
        weights.append(float(len(work.sequences(client))))
    shared = mean(updates, weights)
    work.finished(number, shared)
