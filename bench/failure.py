"""What a measurement raises that cannot be made."""


class Failed(Exception):
    """It says why, in a sentence for the results; the benchmark goes on with the next one."""
