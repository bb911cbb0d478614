"""The client: answers with what it was sent."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def echo(message: Message, context: Context) -> Message:
    """Send it back."""
    del context
    return Message(message.content, reply_to=message)
