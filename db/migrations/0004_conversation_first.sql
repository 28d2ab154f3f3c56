-- An index that begins with the tenant seems as good as the primary key to find a reply by both, while there is next to
-- nothing in the table; and a session keeps to the plan that it made then.

DROP INDEX replies_message;
CREATE INDEX replies_message ON replies (appid, tenant, message_seq);
