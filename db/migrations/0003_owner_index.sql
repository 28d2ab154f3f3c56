-- An index that only statements with an owner can use. As all of its rows were in replies_streaming too, PostgreSQL,
-- once it had looked at the table while nobody streamed, read either from end to end instead of looking up a key.

DROP INDEX replies_owner;
CREATE INDEX replies_owner ON replies (owner) WHERE status = 'streaming' AND owner IS NOT NULL;
