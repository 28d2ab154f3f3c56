-- The log of the replies' lines, and who writes it.

CREATE TABLE reply_lines (
    reply uuid NOT NULL,
    seq int NOT NULL, -- the line's number within its reply: 0, 1, 2 ...
    line text NOT NULL,
    PRIMARY KEY (reply, seq)
);

-- The living processes. A process holds the advisory lock `owner` while it lives; whoever finds the lock free may
-- delete the row. Whoever writes lines locks its own row first: a deleted row stops a process that only seemed dead.
CREATE TABLE processes (
    owner bigint PRIMARY KEY,
    started timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE replies
    ALTER COLUMN owner DROP NOT NULL, -- null: given up by a process that drains, for others to adopt
    ADD COLUMN stop boolean NOT NULL DEFAULT false, -- somebody asked to stop it; its owner acts on that
    ADD COLUMN attempts int NOT NULL DEFAULT 0, -- how often in a row it was adopted without a new line
    ADD COLUMN adopted_after int, -- the last line's number when it was adopted the last time
    ADD COLUMN line_count int, -- how many lines it has, once it has ended; what came later counts for nothing
    ADD COLUMN pruned boolean NOT NULL DEFAULT false; -- its lines are gone from reply_lines

CREATE INDEX replies_owner ON replies (owner) WHERE status = 'streaming';
CREATE INDEX replies_prunable ON replies (finished) WHERE NOT pruned AND finished IS NOT NULL;
