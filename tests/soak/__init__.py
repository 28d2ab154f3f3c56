"""Fault-injection campaigns against a whole site: servers, database and connections fail; every line is counted."""
