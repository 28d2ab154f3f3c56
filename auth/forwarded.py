"""Client address and scheme behind trusted proxies: ``X-Forwarded-For`` and ``X-Forwarded-Proto``."""

import ipaddress
import re
from collections.abc import Sequence

from tornado.options import Error

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

BRACKETS_OR_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")
"""An IPv6 address in brackets, with or without a port, or an IPv4 address with a port (RFC 7239, section 6)."""


class TrustedProxies:
    """The proxies whose ``X-Forwarded-*`` headers are trusted.

    :param trusted: addresses and networks, separated by commas or white space.
    :raises tornado.options.Error: an item is neither an IP address nor a network.
    """

    def __init__(self, trusted: str) -> None:
        self._networks: list[Network] = []
        for item in trusted.replace(",", " ").split():
            try:
                self._networks.append(ipaddress.ip_network(item))
            except ValueError as error:
                raise Error(f"--trusted-proxies contains {item!r}, which is not an IP address or a network") from error

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client_address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the client's address: the last one that is not a trusted proxy's.

        Addresses before it were sent by an untrusted client and are ignored.

        :param peer: address at the other end of the connection.
        :param forwarded_for: values of all ``X-Forwarded-For`` headers, in order.
        """
        client = _address(peer)
        if client is None:
            return peer
        for item in reversed(",".join(forwarded_for).split(",")):
            if not self._is_trusted(client):
                break
            previous = _address(item)
            if previous is None:
                break
            client = previous
        return str(client)

    def scheme(self, peer: str, own: str, forwarded_proto: Sequence[str]) -> str:
        """Return the scheme that the client uses, ``http`` or ``https``.

        :param peer: address at the other end of the connection.
        :param own: scheme of this connection.
        :param forwarded_proto: values of all ``X-Forwarded-Proto`` headers, in order.
        """
        address = _address(peer)
        if address is None or not self._is_trusted(address):
            return own
        forwarded = ",".join(forwarded_proto).split(",")[-1].strip().lower()
        return forwarded if forwarded in ("http", "https") else own

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    text = text.strip()
    if match := BRACKETS_OR_PORT.fullmatch(text):
        text = match[1] or match[2] or ""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
