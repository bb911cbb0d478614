from plait.features.secagg.events import MASKED_NOT_COVERED, SumUnmasked, after
from plait.report.tables import report_tables
from tests.plait.conftest import run_started, view_of
from tests.plait.report.test_html import page_of

SUM = SumUnmasked(
    round=1, purpose="train", invited=6, roster=6, shared=5, clients=5, threshold=4, neighbours=5, bits=6, unit=0.01
)


def test_a_run_under_masks_says_what_they_hide_and_what_they_do_not():
    view = view_of([run_started()])
    view.take(SUM)
    view.take(SUM.model_copy(update={"purpose": "evaluate", "clients": 4}))
    facts = dict(next(iter(view.cards.values())).facts)
    # Two lists that four of six clients signed have two signers in common, so one of these may be dishonest.
    assert facts["From"] == "the server, and up to 1 clients together with it"
    sparse = SUM.model_copy(update={"roster": 200, "threshold": 134, "clients": 200, "neighbours": 64})
    assert "up to 20 clients" in dict(after(None, sparse).facts)["From"]
    assert facts["Learned"] == "2 sums, none of fewer than 4 clients"
    assert "protects no one" in facts["Simulated"]
    (table,) = (table for table in report_tables(view) if table.title == "Secure aggregation")
    assert [row[1] for row in table.rows if row[0] == "Not covered"] == list(MASKED_NOT_COVERED)
    page = page_of(view)
    assert "masks add no noise" in page
    assert "<summary>Clients</summary>" not in page
    proven = dict(after(None, SUM.model_copy(update={"certified": True})).facts)
    assert "Simulated" not in proven
    assert "certificate" in proven["Keys"]
    assert "masks add no noise" not in page_of(view_of([run_started()]))
