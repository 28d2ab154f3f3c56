"""The statements of the course's servers on the table ``chatts``, and the parsers of its clients.

Statements: the tutorial's ``llmchat()``, and those of public copies of the course's Python back ends of Fall 2025 and
Winter 2026 (``handlers.py``: getchatts, postchatt, llmchat, llmprep, llmtools). Only parameters are asyncpg's.
"""

from datetime import datetime
from uuid import UUID

from tests.database import rows


class CourseServer:
    """A server of the course, as far as its database sees it.

    :param role: the column of the role: ``username`` (Fall 2025) or ``name`` (Winter 2026).
    :param appid: the column of the appID as an SQL identifier.
    """

    def __init__(self, url: str, role: str = "username", appid: str = "appID") -> None:
        self.url = url
        self.role = role
        self.appid = appid

    def record(self, role: str | None, message: str, appid: str) -> None:
        """Insert a message as ``llmchat()`` does, for the prompt and for the reply."""
        rows(
            self.url,
            f"INSERT INTO chatts ({self.role}, message, id, {self.appid}) VALUES ($1, $2, gen_random_uuid(), $3)",
            role,
            message,
            appid,
        )

    def history(self, appid: str) -> list[tuple[str, str]]:
        """Read a conversation as ``llmchat()`` does."""
        query = f"SELECT {self.role}, message FROM chatts WHERE {self.appid} = $1 ORDER BY time ASC"
        return [tuple(row) for row in rows(self.url, query, appid)]

    def prep(self, appid: str, *messages: tuple[str, str]) -> None:
        """Begin a conversation anew as ``llmprep()`` does."""
        rows(self.url, f"DELETE FROM chatts WHERE {self.appid} = $1", appid)
        for role, message in messages:
            self.record(role, message, appid)

    def getchatts(self) -> list[tuple[str, str, UUID, datetime]]:
        """Read all messages as ``getchatts()`` does."""
        return [
            tuple(row) for row in rows(self.url, f"SELECT {self.role}, message, id, time FROM chatts ORDER BY time ASC")
        ]

    def postchatt(self, name: str, message: str) -> None:
        """Insert a message of no conversation as ``postchatt()`` does."""
        query = f"INSERT INTO chatts ({self.role}, message, id) VALUES ($1, $2, gen_random_uuid())"
        rows(self.url, query, name, message)

    def record_tools(self, role: str, message: str, appid: str, column: str, value: str | None) -> None:
        """Insert a message as ``llmtools()`` does.

        :param column: ``toolschemas`` for a prompt, ``toolcalls`` for a reply.
        """
        columns = f"{self.role}, message, id, {self.appid}, {column}"
        query = f"INSERT INTO chatts ({columns}) VALUES ($1, $2, gen_random_uuid(), $3, $4)"
        rows(self.url, query, role, message, appid, value)

    def history_with_tools(self, appid: str) -> list[tuple[str, str, str | None, str | None]]:
        """Read a conversation as ``llmtools()`` does."""
        columns = f"{self.role}, message, toolcalls, toolschemas"
        query = f"SELECT {columns} FROM chatts WHERE {self.appid} = $1 ORDER BY time ASC"
        return [tuple(row) for row in rows(self.url, query, appid)]
