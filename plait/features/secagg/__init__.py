"""Secure aggregation: a server learns the sum of what clients send and nothing of a single one."""

from plait.feature import Feature

FEATURE = Feature(
    name="secagg",
    help="sums under masks: the server sees no single update",
    settings="plait.settings.privacy:Masks",
    limits=dict.fromkeys(("require_secure_aggregation", "min_masked_clients"), "plait.features.secagg.run:check"),
    proposes="plait.features.secagg.run:proposes",
    messages={"masking": "plait.features.secagg.messages:read_task"},
    replies={"masked": "plait.features.secagg.messages:read_reply"},
    events={
        "sum_unmasked": "plait.features.secagg.events:SumUnmasked",
        "group_left_out": "plait.features.secagg.events:GroupLeftOut",
        "evaluation_missed": "plait.features.secagg.events:EvaluationMissed",
    },
    card="plait.features.secagg.events:after",
)
