"""The benchmark's exception."""


class BenchError(Exception):
    """A measurement cannot be made. The text is a sentence for the results; the benchmark continues with the next."""
