"""Reads a table's form from PostgreSQL's catalog: its kind, its columns, their types and defaults."""

from dataclasses import dataclass

import asyncpg

TABLE = "chatts"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table (``pg_attribute``).

    :ivar quoted: its name as an SQL identifier.
    :ivar renamed: the identifier ``old_`` and its name, for advice.
    :ivar type: its type as in SQL, such as ``character varying(255)``.
    :ivar base: name of the type without a modifier, such as ``varchar``; of a domain, the domain's name.
    :ivar modifier: ``atttypmod``: -1 without a modifier; for varchar(n), n + 4.
    :ivar default: expression of its default, or None.
    :ivar computed: whether it is generated or an identity, so that a statement need not give its value.
    :ivar in_key: whether it is part of the primary key.
    """

    name: str
    quoted: str
    renamed: str
    type: str
    base: str
    modifier: int
    default: str | None
    not_null: bool
    computed: bool
    in_key: bool

    @property
    def text(self) -> bool:
        """Whether it is a string: text, varchar or char."""
        return self.base in ("text", "varchar", "bpchar")

    def holds(self, length: int | None) -> bool:
        """Return whether it is a text or varchar for strings of this length; None: of any length."""
        unlimited = self.base == "text" or (self.base == "varchar" and self.modifier < 0)
        return unlimited or (length is not None and self.base == "varchar" and self.modifier - 4 >= length)


@dataclass(frozen=True, slots=True)
class Table:
    """A relation (``pg_class``).

    :ivar identifier: its name as an SQL identifier, with the schema.
    :ivar kind: ``relkind``: ``r`` for an ordinary table.
    :ivar inherits: whether it is a child or a parent of another table.
    :ivar rules: identifiers of its rewrite rules, of a view its own rule included.
    """

    oid: int
    schema: str
    identifier: str
    kind: str
    inherits: bool
    rules: list[str]
    columns: dict[str, Column]


async def find_table(connection: asyncpg.Connection) -> Table | None:
    """Return what an unqualified ``chatts`` refers to in this session; None if it does not exist."""
    row = await connection.fetchrow(
        """
        SELECT pg_class.oid, quote_ident(nspname) AS schema, format('%I.%I', nspname, relname) AS identifier,
               relkind::text,
               EXISTS (SELECT FROM pg_inherits WHERE pg_class.oid IN (inhrelid, inhparent)) AS inherits,
               ARRAY (SELECT quote_ident(rulename) FROM pg_rewrite WHERE ev_class = pg_class.oid ORDER BY 1) AS rules
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass($1)
        """,
        TABLE,
    )
    if row is None:
        return None
    columns = await connection.fetch(
        """
        SELECT attname AS name, quote_ident(attname) AS quoted, quote_ident('old_' || attname) AS renamed,
               format_type(atttypid, atttypmod) AS type, typname AS base,
               atttypmod AS modifier, pg_get_expr(adbin, adrelid) AS default, attnotnull AS not_null,
               attgenerated <> '' OR attidentity <> '' AS computed,
               EXISTS (
                   SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary AND attnum = ANY(indkey)
               ) AS in_key
        FROM pg_attribute
        JOIN pg_type ON pg_type.oid = atttypid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum
        """,
        row["oid"],
    )
    return Table(
        row["oid"],
        row["schema"],
        row["identifier"],
        row["relkind"],
        row["inherits"],
        row["rules"],
        {column["name"]: Column(**column) for column in columns},
    )
