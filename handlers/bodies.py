"""How much is held of all requests' bodies, so that a crowd of large ones cannot fill the memory."""


class Bodies:
    """Counts their bytes.

    :param limit: bytes held at once, at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def take(self, size: int) -> bool:
        """Hold ``size`` bytes more; False if that would be too many."""
        if self._held + size > self._limit:
            return False
        self._held += size
        return True

    def give_back(self, size: int) -> None:
        """Hold so many no longer."""
        self._held -= size
