"""Sockets whose port a test keeps, refuses connections on, and breaks."""

import asyncio
import contextlib
import socket
import struct


def bound_socket(port: int) -> socket.socket:
    """A socket bound to a port that it shares with the reservation."""
    # asyncio turns Nagle's algorithm off for a socket that names its protocol, and for no other.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def stop_accepting(server: asyncio.Server) -> None:
    """Close a server, whose connections stand.

    asyncio loses what it accepts in the turn of the loop in which the server is closed: an open socket that nobody
    answers on. So it accepts nothing more first, and what it had accepted becomes a connection.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(4):  # what was just accepted becomes a task, then a transport, then a connection
        await asyncio.sleep(0)
    server.close()


def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
