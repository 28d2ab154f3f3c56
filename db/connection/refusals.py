"""Why PostgreSQL refuses a text, in sentences for its sender, by SQLSTATE (PostgreSQL manual, appendix A). Pure."""

import asyncpg

_NUL = "it contains a NUL character, which PostgreSQL has in no text. Remove it."
_SURROGATE = "it contains half of a surrogate pair, which is no character. Send both halves, or neither."
_TOO_LARGE = "it is larger or nested more deeply than PostgreSQL allows. Send it in parts."

_REASONS = {
    "22001": "it is too long for its column. Shorten it.",
    "22003": "it contains a number out of the range of PostgreSQL's numeric. Send the number as a text.",
    "22021": _NUL,
    "22P02": "it contains JSON that PostgreSQL does not accept, such as half of a surrogate pair.",
    "22P05": _NUL,
    "44000": "a condition of the table's view forbids it. Ask the operator.",
    "23514": "a condition of its table forbids it. Ask the operator.",
    "54000": _TOO_LARGE,
    "54001": _TOO_LARGE,
}
"""22P05 (untranslatable character) is what a NUL within JSON is, and 22021 (character not in repertoire) elsewhere."""


def refusal(error: asyncpg.PostgresError) -> str:
    """Return what is wrong with the text of a statement that PostgreSQL, or asyncpg in its place, has refused."""
    if isinstance(error.__cause__, UnicodeEncodeError):  # asyncpg could not encode it as UTF-8
        reason = _SURROGATE
    else:
        reason = _REASONS.get(error.sqlstate or "", "it contains a value that PostgreSQL does not accept.")
    return f"The database cannot store this text: {reason}"
