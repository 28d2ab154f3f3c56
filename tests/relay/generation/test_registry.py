"""The number of replies per tenant and per address."""

from relay.generation.registry import ConcurrencyCounter


def test_replies_are_counted_by_tenant_and_address_within_the_block() -> None:
    concurrency = ConcurrencyCounter()
    with concurrency.counted("a", "192.0.2.1"), concurrency.counted("a", ""):
        assert (concurrency.tenants["a"], concurrency.addresses["192.0.2.1"]) == (2, 1)
        assert "" not in concurrency.addresses
    assert not concurrency.tenants and not concurrency.addresses
