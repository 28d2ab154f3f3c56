"""A viewer's position in a reply, and the format of server-sent events."""
