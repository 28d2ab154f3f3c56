"""The type that measurements return."""

Values = dict[str, float]
"""What one run of one measurement gave, by name. CPU times end in ``_us`` and are microseconds for each line."""
