"""NVFlare's FedAvg recipe for the work, with its quantizer as a variant, and what a site must allow."""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{os.environ['PYTHONPATH']}"  # for NVFlare's processes

from counting import Count, Keep  # noqa: E402
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST  # noqa: E402
from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer  # noqa: E402
from nvflare.app_opt.pt.quantization.quantizer import ModelQuantizer  # noqa: E402
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe  # noqa: E402
from work import Work  # noqa: E402

ALLOWED = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, "counting.Count", "counting.Keep"]}
"""NVFlare instantiates only classes that a site allows."""


def recipe_of(work: Work) -> FedAvgRecipe:
    """The recipe of a cell."""
    configuration, out = str(Path(sys.argv[1]).absolute()), str(work.out)
    recipe = FedAvgRecipe(
        name="field",
        model_persistor=Keep(configuration, out),
        min_clients=work.told["per_round"],
        num_rounds=work.told["rounds"],
        train_script=str(HERE / "client.py"),
        train_args=f"{configuration} {out}",
    )
    recipe.add_client_input_filter(Count(configuration, out, "down"), tasks=["train"])
    if kind := work.told["variant"].get("quantization"):
        recipe.add_server_output_filter(ModelQuantizer(kind), tasks=["train"])
        recipe.add_client_input_filter(ModelDequantizer(), tasks=["train"])
        recipe.add_client_output_filter(ModelQuantizer(kind), tasks=["train"])
        recipe.add_server_input_filter(ModelDequantizer(), tasks=["train"])
    recipe.add_client_output_filter(Count(configuration, out, "up"), tasks=["train"])
    return recipe


def allow(local: Path, more: dict[str, object]) -> None:
    """Write a site's resources into its `local` folder."""
    local.mkdir(parents=True, exist_ok=True)
    (local / "resources.json").write_text(json.dumps(more | ALLOWED))
