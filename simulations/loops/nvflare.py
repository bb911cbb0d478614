"""NVFlare's LoRA job of simulations/field, unchanged and with the filters of nvflare_job/plait_filters.py.

    python simulations/loops/nvflare.py --json

It needs an environment with simulations/field/nvflare/requirements.txt and this checkout's dependencies.
"""

import sys
from pathlib import Path

from loops import report, rows

HERE = Path(__file__).resolve().parent
FILTERS = """\
    recipe.add_server_output_filter(Pack(), tasks=["train"])
    recipe.add_client_input_filter(Unpack(), tasks=["train"])
    recipe.add_client_output_filter(Pack(), tasks=["train"])
    recipe.add_server_input_filter(Unpack(), tasks=["train"])
"""
COUNT = '    recipe.add_client_output_filter(Count(configuration, out, "up"), tasks=["train"])\n'
EDITS = {
    "recipe.py": [
        ("from work import Work", "from plait_filters import Pack, Unpack  # noqa: E402\nfrom work import Work"),
        ('"counting.Keep"]', '"counting.Keep", "plait_filters.Pack", "plait_filters.Unpack"]'),
        (COUNT, FILTERS + COUNT),
    ]
}

if __name__ == "__main__":
    report("nvflare", lambda: rows("nvflare", EDITS, Path(sys.executable), beside=HERE / "nvflare_job"))
