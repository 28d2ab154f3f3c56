"""An embedded PostgreSQL, for a machine that has none: the programs of a wheel, started and supervised here."""

from embedded.postgres.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
