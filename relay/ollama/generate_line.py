"""Convert lines of Ollama's ``/api/generate`` to the form of ``/api/chat``. Pure.

A line of ``/api/generate`` (ollama ``api/types.go``, ``GenerateResponse``) has ``response``, and perhaps ``thinking``,
where one of ``/api/chat`` has ``message``. All other fields are the same.
"""

import msgspec

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def as_chat_line(line: bytes) -> bytes:
    """Return the line in the form of ``/api/chat``; unchanged if it has no ``response``: an error, or unreadable.

    The other fields keep their bytes and their order; ``context`` (tokens that ``/api/generate`` could continue from)
    is removed.
    """
    try:
        fields = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return line
    if "response" not in fields:
        return line
    message = {"role": "assistant", "content": fields["response"]}
    if "thinking" in fields:
        message["thinking"] = fields["thinking"]
    converted = {
        "message" if name == "response" else name: message if name == "response" else value
        for name, value in fields.items()
        if name not in ("thinking", "context")
    }
    return msgspec.json.encode(converted)
