"""Chat: talk in the terminal to the model that a run made."""

from plait.feature import Feature

FEATURE = Feature(
    name="chat",
    help="talk to a run's model in the terminal",
    verbs={"chat": "plait.features.chat.chat_verb:chat"},
)
