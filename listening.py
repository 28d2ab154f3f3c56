"""Bind the listening sockets of ``--address`` and ``--port``, and say in one sentence why that is not possible."""

import errno
import ipaddress
import socket

from tornado.netutil import bind_sockets

from errors import StartupError

BACKLOG = 4_096
"""Connections waiting to be accepted. Linux drops the SYN of further ones; TCP repeats it after 1 s (RFC 6298)."""

IN_USE = "--port={port} is in use by another program on {address}. Stop that program, or choose another port."
NOT_LOCAL = "--address={address} is not an address of this machine. `ip address` lists those that are."
UNKNOWN_NAME = "--address={address} is neither an IP address nor a host name that this machine knows."
PRIVILEGED = "--port={port} is reserved for privileged users. Choose a port from 1024 on, behind a proxy if need be."
NO_FAMILY = "--address={address} cannot be used: this machine has no addresses of that family (IPv4 or IPv6)."

SENTENCES = {
    errno.EADDRINUSE: IN_USE,
    errno.EADDRNOTAVAIL: NOT_LOCAL,
    errno.EACCES: PRIVILEGED,
    errno.EAFNOSUPPORT: NO_FAMILY,
}
"""What the errors of bind(2) mean here."""


def listen(address: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on the address; a name may have several addresses.

    ``::`` stands for all addresses of both families, as it does by default in Linux (ipv6(7), ``bindv6only``).

    :raises StartupError: the address cannot be used.
    """
    try:
        sockets = bind_sockets(port, "" if address == "::" else address, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as error:
        raise StartupError(UNKNOWN_NAME.format(address=address)) from error
    except OSError as error:
        sentence = SENTENCES.get(error.errno or 0)
        if sentence is None:
            raise StartupError(f"--address={address} --port={port} cannot be used: {error.strerror}.") from error
        raise StartupError(sentence.format(address=address, port=port)) from error
    if not sockets:
        raise StartupError(NO_FAMILY.format(address=address))
    return sockets


def check(address: str, port: int) -> None:
    """Check that the address can be listened on, before anything is installed or started.

    :raises StartupError: it cannot.
    """
    for unused in listen(address, port):
        unused.close()


def url(scheme: str, listening: socket.socket) -> str:
    """Return the URL at which a browser on this machine reaches a listening socket, without a slash at its end.

    A wildcard address, on which a server listens, becomes the loopback address, to which a client connects.
    """
    name, port = listening.getsockname()[:2]
    address = ipaddress.ip_address(name.partition("%")[0])
    if address.is_unspecified:
        name = "::1" if address.version == 6 else "127.0.0.1"
    return f"{scheme}://[{name}]:{port}" if address.version == 6 else f"{scheme}://{name}:{port}"
