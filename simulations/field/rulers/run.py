"""No federations but rulers: every client alone, and all data in one place, with as many steps as the federation's."""

from work import EVERYBODY, Work, state_of

work = Work.from_arguments()
model, rate = work.model(), work.told["learning_rate"]
fresh = state_of(model)
trainings = work.told["rounds"] * work.told["per_round"]
work.finished(0, fresh)
if work.told["variant"]["ruler"] == "alone":
    for client in work.clients:
        state = fresh
        for number in range(1, trainings // len(work.clients) + 1):
            state, _ = work.train(model, state, client, number, rate)
        work.keep(f"own/{client}", state)
    work.ended(work.told["rounds"])
else:
    state = fresh
    for number in range(1, trainings + 1):
        state, _ = work.train(model, state, EVERYBODY, number, rate)
        if number % work.told["per_round"] == 0:
            work.finished(number // work.told["per_round"], state)
