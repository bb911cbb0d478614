"""Differential privacy: of clients, whose noise the server adds or they themselves, and of single records."""

from plait.feature import Feature

_LIMITS = ("dp_max_epsilon", "dp_unit", "dp_max_delta", "max_total_epsilon")

FEATURE = Feature(
    name="privacy",
    help="differential privacy of clients, or of records",
    settings="plait.settings.privacy:Privacy",
    limits=dict.fromkeys(_LIMITS, "plait.features.privacy.run:check"),
    proposes="plait.features.privacy.run:proposes",
    spent="plait.features.privacy.client:spent",
    plans="plait.features.privacy.plans:plans",
    verifies="plait.features.privacy.audit:verifies",
    verbs={"privacy": "plait.features.privacy.audit:privacy"},
    events={
        "privacy_started": "plait.features.privacy.events:PrivacyStarted",
        "noise_intended": "plait.features.privacy.events:NoiseIntended",
        "privacy_spent": "plait.features.privacy.events:PrivacySpent",
    },
    figures="plait.features.privacy.card:figures_of",
    card="plait.features.privacy.card:after",
    sections=("plait.features.privacy.card:epsilon_table",),
)
