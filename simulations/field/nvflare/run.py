"""NVFlare's FedAvg recipe on its simulator, which lets all clients work at once."""

from nvflare.recipe.sim_env import SimEnv
from recipe import allow, recipe_of
from work import Work

work = Work.from_arguments()
allow(work.out / "simulation" / "field" / "local", {})
simulator = SimEnv(
    clients=work.clients, num_threads=work.told["per_round"], workspace_root=str(work.out / "simulation")
)
recipe_of(work).execute(simulator)
