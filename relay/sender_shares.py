"""Memory for request bodies, shared among those who send them."""


class SenderShares:
    """Limits the bytes of request bodies in memory: of all, and of each sender.

    A sender may have as many bytes as are free: one has half of the limit at most, two have a third each, and there is
    always room for another. (Dynamic thresholds with alpha = 1: Choudhury and Hahne, "Dynamic queue length thresholds
    for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.)

    :param limit: bytes of all bodies at most.
    :ivar charged: bytes that are charged now.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_sender: dict[str, int] = {}
        self.charged = 0

    def charge(self, sender: str) -> "Charge":
        """Return a charge without bytes.

        :param sender: the tenant or the address whose share it takes.
        """
        return Charge(self, sender)

    def reserve(self, sender: str, size: int) -> bool:
        """Charge ``size`` bytes to a sender; return False if they exceed its share."""
        of_sender = self._by_sender.get(sender, 0) + size
        if of_sender > self._limit - self.charged - size:
            return False
        self._by_sender[sender] = of_sender
        self.charged += size
        return True

    def release(self, sender: str, size: int) -> None:
        """Release bytes of a sender."""
        self.charged -= size
        if rest := self._by_sender[sender] - size:
            self._by_sender[sender] = rest
        else:
            del self._by_sender[sender]


class Charge:
    """The bytes of one body, for as long as it is in memory. Its keeper releases it; it can be handed over.

    :ivar size: bytes that are charged.
    """

    __slots__ = ("_budget", "_sender", "size")

    def __init__(self, budget: SenderShares, sender: str) -> None:
        self._budget = budget
        self._sender = sender
        self.size = 0

    def grow(self, size: int) -> bool:
        """Charge more bytes; return False, and charge nothing, if they exceed the sender's share."""
        if not self._budget.reserve(self._sender, size):
            return False
        self.size += size
        return True

    def shrink(self, size: int) -> None:
        """Release ``size`` of the bytes."""
        if size:
            self._budget.release(self._sender, size)
            self.size -= size

    def release(self) -> None:
        """Release all bytes; does nothing if they are released."""
        if self.size:
            self._budget.release(self._sender, self.size)
            self.size = 0
