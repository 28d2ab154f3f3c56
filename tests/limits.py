"""The small limits of the server that tests of limits share."""

HEADER_BYTES = 4_096
URL_BYTES = 1_024
TIMEOUT = 0.5
"""Seconds until an idle connection is closed, and within which a request's body must arrive."""

REPLY_BYTES = 20_000

SETTINGS: dict[str, object] = {
    "max_header_bytes": HEADER_BYTES,
    "max_url_bytes": URL_BYTES,
    "idle_connection_timeout": TIMEOUT,
    "body_timeout": TIMEOUT,
    "max_messages": 3,
    "max_json_depth": 6,
    "max_reply_bytes": REPLY_BYTES,
    "max_viewers": 2,
    "max_prompt_characters": 200,
}
"""Of requests, prompts, replies and the number of viewers."""
