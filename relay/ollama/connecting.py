"""From the name of a host to a connected socket, without a thread or a turn of the event loop if it needs neither."""

import asyncio
import ssl
from collections.abc import Sequence
from errno import EINPROGRESS
from functools import cache, lru_cache
from os import strerror
from socket import (
    AI_NUMERICHOST,
    IPPROTO_TCP,
    SO_ERROR,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    gaierror,
    getaddrinfo,
    socket,
)
from typing import Any


async def connect(host: str, port: int) -> socket:
    """Connect to the first of a host's addresses that can be.

    :raises OSError: none can.
    :raises UnicodeError: no host can have that name.
    """
    failed = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await _addresses(host, port):
        try:
            connection = socket(family, kind, protocol)
        except OSError as error:  # a name may have addresses of a family that this machine does not speak
            failed = error
            continue
        try:
            await _connect(connection, address)
            connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            return connection
        except OSError as error:
            connection.close()
            failed = error
        except BaseException:
            connection.close()
            raise
    raise failed


async def _connect(connection: socket, address: Any) -> None:
    """Connect a socket, without a turn of the event loop if that takes no time (uvloop's own ``sock_connect`` looks
    every address up in a thread).

    :raises OSError: it cannot be.
    """
    connection.setblocking(False)
    failure = connection.connect_ex(address)
    if failure == EINPROGRESS:
        try:
            connection.getpeername()
            return
        except OSError:
            await _writable(connection)
        failure = connection.getsockopt(SOL_SOCKET, SO_ERROR)
    if failure:
        raise OSError(failure, strerror(failure))


async def _writable(connection: socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def end() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(connection, end)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


async def _addresses(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """What a host's name stands for; a name that is an address needs no thread that looks it up.

    :raises OSError: nobody knows it.
    """
    try:
        return _as_number(host, port)
    except gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)


@lru_cache(maxsize=16)
def _as_number(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """The address that a host's name is.

    :raises OSError: it is none.
    """
    return getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_NUMERICHOST)


@cache
def trusting_the_system() -> ssl.SSLContext:
    """What TLS connections trust: the system's certificates, or those that ``SSL_CERT_FILE`` names (read once)."""
    return ssl.create_default_context()
