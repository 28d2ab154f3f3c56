"""Whose request it is behind a balancer: ``X-Forwarded-For`` and ``X-Forwarded-Proto``, believed from some. Pure."""

import ipaddress
import re
from collections.abc import Sequence

from tornado.options import Error

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")
"""How some write an address: RFC 7239, section 6, and HTTP's own way."""


class TrustedProxies:
    """The balancers that are trusted to say for whom they ask.

    :param trusted: addresses and networks, separated by commas or white space.
    :raises tornado.options.Error: one of them is neither.
    """

    def __init__(self, trusted: str) -> None:
        self._networks: list[Network] = []
        for one in trusted.replace(",", " ").split():
            try:
                self._networks.append(ipaddress.ip_network(one))
            except ValueError as error:
                raise Error(f"--trusted-proxies has {one!r}, which is neither an address nor a network") from error

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client_address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Find the address that asks: the last one that is not a trusted proxy's.

        What stands before it was said by nobody who is trusted, and does not count.

        :param peer: at the other end of the connection.
        :param forwarded_for: the values of all ``X-Forwarded-For`` headers, in order.
        """
        client = _address(peer)
        if client is None:
            return peer
        for one in reversed(",".join(forwarded_for).split(",")):
            if not self._trusted(client):
                break
            before = _address(one)
            if before is None:
                break
            client = before
        return str(client)

    def scheme(self, peer: str, own: str, forwarded_proto: Sequence[str]) -> str:
        """Find out whether the client speaks ``http`` or ``https``.

        :param own: what this connection is.
        :param forwarded_proto: the values of all ``X-Forwarded-Proto`` headers, in order.
        """
        address = _address(peer)
        said = ",".join(forwarded_proto).split(",")[-1].strip().lower()
        return said if said in ("http", "https") and address is not None and self._trusted(address) else own

    def _trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    text = text.strip()
    if match := WITH_PORT.fullmatch(text):
        text = match[1] or match[2] or ""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
