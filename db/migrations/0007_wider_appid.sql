-- appIDs of up to 155 characters in tables whose column was made for fewer, and messages without one. PostgreSQL does not
-- rewrite a table for a longer varchar.

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'chatts'::regclass AND attname = 'appid'
        AND (atttypid = 'bpchar'::regtype OR (atttypid = 'varchar'::regtype AND atttypmod BETWEEN 0 AND 158))
    ) THEN
        ALTER TABLE chatts ALTER COLUMN appid TYPE varchar(155);
    END IF;
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'chatts'::regclass AND attname = 'appid' AND attnotnull
        AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary AND attnum = ANY(indkey))
    ) THEN
        ALTER TABLE chatts ALTER COLUMN appid DROP NOT NULL;
    END IF;
END
$$;
