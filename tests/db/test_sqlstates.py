"""The list of SQLSTATEs: complete, and its verdicts are those that the rest relies on."""

import asyncpg
import pytest

from db.connection.sqlstates import VERDICTS, Verdict, verdict_of

STATES = sorted(
    {
        str(error.sqlstate)
        for error in vars(asyncpg.exceptions).values()
        if isinstance(error, type) and issubclass(error, asyncpg.PostgresError) and error.sqlstate
    }
)
"""All codes of PostgreSQL that asyncpg knows: it generates its classes from PostgreSQL's errcodes.txt."""

NO_ERRORS = {"00", "01", "02"}
"""Classes of success and warnings."""


def test_each_class_of_postgresql_has_a_verdict_and_a_reason() -> None:
    classes = {state[:2] for state in STATES} - NO_ERRORS
    assert len(classes) > 30
    assert classes == {state for state in VERDICTS if len(state) == 2}
    assert all(reason for _, reason in VERDICTS.values())


def test_each_listed_code_is_one_of_postgresql() -> None:
    assert {state for state in VERDICTS if len(state) == 5} <= set(STATES)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (asyncpg.CharacterNotInRepertoireError, Verdict.REFUSAL),
        (asyncpg.CheckViolationError, Verdict.REFUSAL),
        (asyncpg.UniqueViolationError, Verdict.DEFECT),
        (asyncpg.ProgramLimitExceededError, Verdict.REFUSAL),
        (asyncpg.SerializationError, Verdict.CONFLICT),
        (asyncpg.DeadlockDetectedError, Verdict.CONFLICT),
        (asyncpg.LockNotAvailableError, Verdict.CONFLICT),
        (asyncpg.QueryCanceledError, Verdict.CONFLICT),
        (asyncpg.AdminShutdownError, Verdict.OUTAGE),
        (asyncpg.DiskFullError, Verdict.OUTAGE),
        (asyncpg.PostgresIOError, Verdict.OUTAGE),
        (asyncpg.UndefinedTableError, Verdict.OUTAGE),
        (asyncpg.DataCorruptedError, Verdict.DEFECT),
        (asyncpg.RaiseError, Verdict.DEFECT),
    ],
)
def test_verdicts(error: type[asyncpg.PostgresError], verdict: Verdict) -> None:
    assert verdict_of(error()) is verdict


def test_a_code_of_an_extension_may_be_due_to_the_text() -> None:
    class OwnError(asyncpg.PostgresError):
        sqlstate = "ZZ123"

    assert verdict_of(OwnError()) is Verdict.DEFECT
