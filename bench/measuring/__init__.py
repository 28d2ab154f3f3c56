"""The instruments: CPU cores and clocks, the load generator, PostgreSQL, one measurement of one server."""
