"""How many replies are generated at the moment for each tenant, and for each address that asked. Pure."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class ConcurrencyCounter:
    """Counts what is under way.

    :ivar tenants: for each tenant, as far as it has any.
    :ivar addresses: for each address, likewise; a reply that was adopted from another process has none.
    """

    def __init__(self) -> None:
        self.tenants: Counter[str] = Counter()
        self.addresses: Counter[str] = Counter()

    def enter(self, tenant: str, address: str) -> None:
        """Count one more.

        :param address: empty if it does not matter.
        """
        self.tenants[tenant] += 1
        if address:
            self.addresses[address] += 1

    def leave(self, tenant: str, address: str) -> None:
        """Count one less."""
        _subtract(self.tenants, tenant)
        if address:
            _subtract(self.addresses, address)

    @contextmanager
    def counted(self, tenant: str, address: str) -> Iterator[None]:
        """Within the block one more is under way."""
        self.enter(tenant, address)
        try:
            yield
        finally:
            self.leave(tenant, address)


def _subtract(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
