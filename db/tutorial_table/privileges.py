"""Tells which statements an administrator has to run where the privileges of chatterd's role do not suffice."""

import asyncpg

from errors import StartupError

OWN_TABLES = (
    *("chatts", "chatterd_migrations", "replies", "reply_lines", "processes"),
    *("context_cuts", "context_summaries", "token_estimates"),
)


async def missing_privileges(connection: asyncpg.Connection, error: asyncpg.PostgresError) -> StartupError:
    """Return the error for a start that PostgreSQL rejected for lack of a privilege.

    :param error: PostgreSQL's error.
    """
    schema = await connection.fetchrow(_SCHEMA)
    statements = []
    if schema:
        rows = await connection.fetch(_OBJECTS, schema["oid"], OWN_TABLES)
        statements = [row["statement"] for row in rows]
        if missing := [name for name in ("USAGE", "CREATE") if not schema[name.lower()]]:
            statements.append(f"GRANT {', '.join(missing)} ON SCHEMA {schema['name']} TO {schema['role']};")
    return await _advice(connection, error.message, statements)


async def check_privileges(connection: asyncpg.Connection) -> None:
    """Check that the session's role may read and write chatterd's tables; another role may have created them.

    :raises StartupError: it may not; the message has the statements that grant it.
    """
    rows = await connection.fetch(_GRANTS, OWN_TABLES)
    if rows:
        reason = "the role may not read and write all tables"
        raise await _advice(connection, reason, [row["statement"] for row in rows])


async def _advice(connection: asyncpg.Connection, reason: str, statements: list[str]) -> StartupError:
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    if not statements:
        return StartupError(f"{reason}. Give the role {role} what is missing in the database {database}.")
    return StartupError(
        f"{reason}. As an administrator of PostgreSQL, run in the database {database}: {' '.join(statements)}"
    )


async def share_sequence(connection: asyncpg.Connection) -> None:
    """Let all roles that may insert into ``chatts`` use its sequence: servers of the tutorial may have their own role.

    Does nothing if the session's role does not own the table.
    """
    for row in await connection.fetch(_SEQUENCE_GRANTS):
        await connection.execute(row["statement"])


# The schema of an existing table; otherwise that of new tables; otherwise the first of search_path that exists, which
# the role may not use.
_SCHEMA = """
    SELECT pg_namespace.oid, quote_ident(nspname) AS name, quote_ident(current_user) AS role,
           has_schema_privilege(pg_namespace.oid, 'USAGE') AS usage,
           has_schema_privilege(pg_namespace.oid, 'CREATE') AS create
    FROM pg_namespace
    LEFT JOIN pg_class ON pg_class.oid = to_regclass('chatts') AND relnamespace = pg_namespace.oid
    LEFT JOIN regexp_split_to_table(replace(current_setting('search_path'), '"$user"', current_user), ' *, *')
        WITH ORDINALITY AS path (name, n) ON nspname = trim(path.name, '"')
    WHERE pg_class.oid IS NOT NULL OR path.n IS NOT NULL
    ORDER BY pg_class.oid IS NULL, nspname <> coalesce(current_schema(), nspname), path.n LIMIT 1
"""

# Tables first: their owner owns the sequences of their columns, too. A former owner that is no superuser keeps what it
# could do as the owner. CASE: conditions joined by AND may be evaluated in any order.
_OBJECTS = """
    WITH mine AS (
        SELECT pg_class.oid, relname, relkind, relowner,
               CASE nspname WHEN 'public' THEN quote_ident(relname) ELSE format('%I.%I', nspname, relname) END AS name
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relnamespace = $1 AND NOT pg_has_role(relowner, 'USAGE')
    )
    SELECT format('ALTER TABLE %s OWNER TO %I;', name, current_user)
           || CASE WHEN rolsuper THEN '' ELSE format(' GRANT ALL ON %s TO %I;', name, rolname) END AS statement
    FROM mine JOIN pg_roles ON pg_roles.oid = relowner
    WHERE relkind = 'r' AND relname = ANY($2)
    UNION ALL
    SELECT format('GRANT USAGE ON SEQUENCE %s TO %I;', name, current_user) FROM mine
    WHERE CASE relkind WHEN 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END AND EXISTS (
        SELECT FROM pg_depend JOIN pg_attrdef ON pg_attrdef.oid = objid
        WHERE classid = 'pg_attrdef'::regclass AND refobjid = mine.oid AND adrelid = to_regclass('chatts')
    ) AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = mine.oid AND deptype = 'a' AND refobjsubid > 0)
    UNION ALL
    SELECT format('ALTER FUNCTION %s OWNER TO %I;', pg_proc.oid::regprocedure, current_user) FROM pg_proc
    WHERE pronamespace = $1 AND proname = 'chatts_equal_columns' AND NOT pg_has_role(proowner, 'USAGE')
"""

_GRANTS = """
    SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I;', to_regclass(name), current_user) AS statement
    FROM unnest($1::text[]) AS name
    WHERE name <> 'chatterd_migrations' AND NOT (
        has_table_privilege(to_regclass(name), 'SELECT') AND has_table_privilege(to_regclass(name), 'INSERT')
        AND has_table_privilege(to_regclass(name), 'UPDATE') AND has_table_privilege(to_regclass(name), 'DELETE')
    )
    UNION ALL
    SELECT format('GRANT USAGE ON SEQUENCE %s TO %I;', sequence.oid::regclass, current_user)
    FROM pg_class AS sequence
    WHERE CASE relkind WHEN 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END AND EXISTS (
        SELECT FROM pg_depend JOIN pg_attrdef ON pg_attrdef.oid = objid
        WHERE classid = 'pg_attrdef'::regclass AND refobjid = sequence.oid AND adrelid = to_regclass('chatts')
    )
"""

_SEQUENCE_GRANTS = """
    SELECT DISTINCT format(
        'GRANT USAGE ON SEQUENCE %s TO %s', sequence, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END
    ) AS statement
    FROM pg_class
    CROSS JOIN to_regclass('chatts_seq_seq') AS sequence
    CROSS JOIN LATERAL (
        SELECT grantee, privilege_type FROM aclexplode(relacl)
        UNION
        SELECT granted.grantee, granted.privilege_type
        FROM pg_attribute CROSS JOIN LATERAL aclexplode(attacl) AS granted WHERE attrelid = pg_class.oid
    ) AS granted
    LEFT JOIN pg_roles ON pg_roles.oid = grantee
    WHERE pg_class.oid = to_regclass('chatts') AND pg_has_role(relowner, 'USAGE') AND privilege_type = 'INSERT'
    AND sequence IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_class AS other
        CROSS JOIN LATERAL aclexplode(coalesce(other.relacl, acldefault('s', other.relowner))) AS held
        WHERE other.oid = sequence AND held.grantee IN (granted.grantee, 0) AND held.privilege_type = 'USAGE'
    )
"""
