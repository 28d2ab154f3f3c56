"""What a failed statement means, by SQLSTATE: whether it is tried again, and why. Pure.

The list is of all classes of PostgreSQL's error codes (PostgreSQL manual, appendix A). An error that PostgreSQL reports
has rolled its statement back, but for the classes whose reason says otherwise.
"""

from collections.abc import Mapping
from enum import Enum, auto

import asyncpg


class Verdict(Enum):
    """What is done about a failed statement."""

    CONFLICT = auto()
    """Another session is in the way, or the statement has to be planned anew: it is tried again at once."""

    OUTAGE = auto()
    """The server or the schema cannot do it now, and will again, by itself or with an operator's help: tried again for
    ``--db-retry-timeout``. What was generated is stored whenever it can be."""

    DEFECT = auto()
    """The reason may pass, or may be in the text itself: tried again for ``--db-retry-timeout``, then without it."""

    REFUSAL = auto()
    """PostgreSQL cannot store this very text, however often it is tried."""


VERDICTS: Mapping[str, tuple[Verdict, str]] = {
    # classes
    "03": (Verdict.DEFECT, "SQL statement not yet complete: of a trigger or function of the operator"),
    "08": (Verdict.OUTAGE, "connection exception; the statement may have been committed"),
    "09": (Verdict.DEFECT, "triggered action exception"),
    "0A": (Verdict.CONFLICT, "feature not supported: a cached plan's result type changed with the schema"),
    "0B": (Verdict.DEFECT, "invalid transaction initiation"),
    "0F": (Verdict.DEFECT, "locator exception"),
    "0L": (Verdict.OUTAGE, "invalid grantor: roles and privileges are an operator's"),
    "0P": (Verdict.OUTAGE, "invalid role specification: likewise"),
    "0Z": (Verdict.DEFECT, "diagnostics exception"),
    "10": (Verdict.DEFECT, "XQuery error"),
    "20": (Verdict.DEFECT, "case not found: in a trigger or function of the operator"),
    "21": (Verdict.DEFECT, "cardinality violation: likewise"),
    "22": (Verdict.REFUSAL, "data exception: a value that PostgreSQL cannot represent, such as a NUL character"),
    "23": (Verdict.DEFECT, "integrity constraint violation: another session's row, or a constraint of the operator"),
    "24": (Verdict.DEFECT, "invalid cursor state"),
    "25": (Verdict.OUTAGE, "invalid transaction state: read-only after a failover, or a timeout of the transaction"),
    "26": (Verdict.OUTAGE, "invalid statement name: a pooler has switched sessions; solved by a new connection"),
    "27": (Verdict.DEFECT, "triggered data change violation"),
    "28": (Verdict.OUTAGE, "invalid authorization: the password or pg_hba.conf was changed"),
    "2B": (Verdict.OUTAGE, "dependent privilege descriptors exist"),
    "2D": (Verdict.DEFECT, "invalid transaction termination"),
    "2F": (Verdict.DEFECT, "SQL routine exception"),
    "34": (Verdict.DEFECT, "invalid cursor name"),
    "38": (Verdict.DEFECT, "external routine exception"),
    "39": (Verdict.DEFECT, "external routine invocation exception"),
    "3B": (Verdict.DEFECT, "savepoint exception"),
    "3D": (Verdict.OUTAGE, "invalid catalog name: the database is being restored, or was renamed"),
    "3F": (Verdict.OUTAGE, "invalid schema name: likewise"),
    "40": (Verdict.CONFLICT, "transaction rollback: serialization failure, deadlock"),
    "42": (Verdict.OUTAGE, "access rule violation: a table, column or privilege is missing until it is restored"),
    "44": (Verdict.REFUSAL, "WITH CHECK OPTION violation: a view of the operator does not accept this row"),
    "53": (Verdict.OUTAGE, "insufficient resources: disk, memory, connections"),
    "54": (Verdict.REFUSAL, "program limit exceeded: a value is too large for an index or a data type"),
    "55": (Verdict.CONFLICT, "object not in prerequisite state: locked by another session, being altered"),
    "57": (Verdict.OUTAGE, "operator intervention: shutdown, start, crash of another session"),
    "58": (Verdict.OUTAGE, "system error: input/output, a file is missing"),
    "72": (Verdict.CONFLICT, "snapshot too old"),
    "F0": (Verdict.OUTAGE, "configuration file error"),
    "HV": (Verdict.OUTAGE, "foreign data wrapper error: the server that it leads to"),
    "P0": (Verdict.DEFECT, "PL/pgSQL error: raised by a trigger of the operator"),
    "XX": (Verdict.DEFECT, "internal error, corrupted data or index: until it is repaired"),
    # codes that differ from their class
    "23514": (Verdict.REFUSAL, "check violation: a constraint of the operator does not accept this row"),
    "40003": (Verdict.OUTAGE, "statement completion unknown; the statement may have been committed"),
    "42P05": (Verdict.OUTAGE, "duplicate prepared statement: as class 26"),
    "55000": (Verdict.OUTAGE, "object not in prerequisite state: the database accepts no connections"),
    "57014": (Verdict.CONFLICT, "query canceled: statement_timeout, mostly of a statement that waited for a lock"),
}
"""Verdict and reason by SQLSTATE, or by class: its first two characters. For others :data:`UNLISTED` holds."""

UNLISTED = Verdict.DEFECT
"""The verdict of codes that extensions made up."""

RECONNECT = ("26", "42P05")
"""SQLSTATEs and classes after which a connection is not used any more."""

UNCERTAIN = ("08", "40003")
"""SQLSTATEs and classes after which the statement may have been committed."""


def verdict_of(error: asyncpg.PostgresError) -> Verdict:
    """Return what is done about an error that PostgreSQL reported.

    >>> verdict_of(asyncpg.SerializationError()).name, verdict_of(asyncpg.UntranslatableCharacterError()).name
    ('CONFLICT', 'REFUSAL')
    """
    state = error.sqlstate or ""
    verdict, _ = VERDICTS.get(state) or VERDICTS.get(state[:2]) or (UNLISTED, "")
    return verdict


def is_of(error: asyncpg.PostgresError, states: tuple[str, ...]) -> bool:
    """Return whether an error has one of these SQLSTATEs, or is of one of these classes."""
    return (error.sqlstate or "").startswith(states)
