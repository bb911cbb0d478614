import pytest

from plait.api.settings import run_config_of
from plait.ledger.run_now import Traffic
from plait.report.estimate import Estimate, Planned
from plait.report.summary import summarise
from plait.report.table import Table
from tests.plait.conftest import view_of

EXTRA = Table(title="More", headings=("", ""), rows=(("a", "b"),))


def estimate(**changed: object) -> Estimate:
    config = run_config_of({"base": "tiny", "clients": 20, "clients_per_round": 2, "rounds": 10})
    given = {
        "config": config, "trainable_parameters": 1001, "base_parameters": 1_000_000, "base_bits": 16,
        "base_memory_bytes": 2_000_000, "adapter_memory_bytes": 20_020, "sent": Traffic(80_100, 160_200),
        "server_disk_bytes": 5_000_000,
    }  # fmt: skip
    return Estimate(**{**given, **changed})


def test_figures_are_by_round_and_client_and_have_the_names_that_a_run_s_have(small_run) -> None:
    figures = estimate(planned=(Planned(tables=(EXTRA,), figures={"dp_epsilon": 3}),)).to_json()
    assert figures["uplink_bytes_per_client_round"] == 80_100 / 20
    assert figures["savings_vs_fp32_adapter"] == pytest.approx(2 * 4 * 1001 * 20 / (80_100 + 160_200))
    assert figures["savings_vs_full_model"] == pytest.approx(2 * 4_000_000 * 20 / (80_100 + 160_200))
    assert figures["dp_epsilon"] == 3
    assert set(summarise(view_of(small_run))) & set(figures) == set(figures) - {
        "clients_per_round", "client_base_memory_bytes", "client_adapter_memory_bytes", "server_disk_bytes",
        "dp_epsilon",
    }  # fmt: skip
