-- The conversations and their replies. `chatts` is the tutorial's table: made if it is missing, upgraded in place with
-- every row kept if it is there, with or without its appid column.

CREATE TABLE IF NOT EXISTS chatts (
    username varchar(255),
    message text,
    id uuid,
    time timestamptz,
    appid varchar(155)
);

ALTER TABLE chatts
    ADD COLUMN IF NOT EXISTS appid varchar(155),
    ADD COLUMN tenant text NOT NULL DEFAULT '',
    ADD COLUMN extra jsonb,
    ADD COLUMN seq bigint,
    ALTER COLUMN message TYPE text,
    ALTER COLUMN id TYPE uuid USING id::uuid,
    ALTER COLUMN time TYPE timestamptz;

UPDATE chatts SET
    seq = ordered.n,
    username = coalesce(username, ''),
    message = coalesce(message, ''),
    id = coalesce(id, gen_random_uuid()),
    time = coalesce(time, now())
FROM (SELECT ctid AS place, row_number() OVER (ORDER BY time, ctid) AS n FROM chatts) AS ordered
WHERE chatts.ctid = ordered.place;

CREATE SEQUENCE chatts_seq_seq OWNED BY chatts.seq;
SELECT setval('chatts_seq_seq', coalesce(max(seq), 0) + 1, false) FROM chatts;

-- clock_timestamp(), not now(): the messages of one statement keep their order for readers that sort by time.
ALTER TABLE chatts
    ALTER COLUMN username SET NOT NULL,
    ALTER COLUMN message SET NOT NULL,
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN id SET NOT NULL,
    ALTER COLUMN time SET DEFAULT clock_timestamp(),
    ALTER COLUMN time SET NOT NULL,
    ALTER COLUMN seq SET DEFAULT nextval('chatts_seq_seq'),
    ALTER COLUMN seq SET NOT NULL;

CREATE UNIQUE INDEX chatts_conversation ON chatts (tenant, appid, seq);
CREATE INDEX chatts_system ON chatts (tenant, appid, seq) WHERE username = 'system';

CREATE TABLE replies (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    appid varchar(155) NOT NULL,
    model text NOT NULL,
    request json NOT NULL, -- json, not jsonb: what is passed on to Ollama is kept as the client wrote it
    status text NOT NULL DEFAULT 'streaming'
        CHECK (status IN ('streaming', 'done', 'stopped', 'failed', 'truncated', 'interrupted')),
    owner bigint NOT NULL, -- the process that generates it: the key of its advisory lock
    idempotency_key varchar(255),
    started timestamptz NOT NULL DEFAULT now(),
    finished timestamptz,
    error text, -- what the viewers were told if it ended otherwise than done or stopped
    message_seq bigint -- the assistant's message in chatts
);

CREATE UNIQUE INDEX replies_streaming ON replies (tenant, appid) WHERE status = 'streaming';
CREATE UNIQUE INDEX replies_idempotency_key ON replies (tenant, appid, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX replies_message ON replies (tenant, appid, message_seq);
