-- `extra` as the JSON text that was sent: jsonb sorts the keys, and the model and its prompt cache see their order.
-- Beside 0005, not in it: a transaction that locks both tables could deadlock with statements that read both. A new type
-- rewrites the table and its indexes, which a table without images, tool calls and thoughts can do without.

DO $$
BEGIN
    LOCK TABLE chatts IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM chatts WHERE extra IS NOT NULL) THEN
        ALTER TABLE chatts ALTER COLUMN extra TYPE json USING extra::json;
    ELSE
        ALTER TABLE chatts DROP COLUMN extra, ADD COLUMN extra json;
    END IF;
END
$$;
