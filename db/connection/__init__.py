"""Connections to PostgreSQL: what a connection URL means, how connections are opened, and why they fail."""
