-- Replies that the next prompt of their conversation may supersede, and the newest reply of a conversation.

ALTER TABLE replies
    ADD COLUMN plain_client boolean NOT NULL DEFAULT false; -- begun by a client that cannot follow or stop a reply

CREATE INDEX replies_newest ON replies (appid, tenant, started); -- the tenant second, as in 0004
