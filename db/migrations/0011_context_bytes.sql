-- What a conversation costs to send, without decompressing it, and which of its system messages a reply was sent.

ALTER TABLE chatts
    ADD COLUMN extra_bytes int; -- bytes of extra as it is sent; null: it is null, or another program has written it

ALTER TABLE replies
    ADD COLUMN system_after bigint; -- only system messages with a greater chatts.seq were sent; null: all were
