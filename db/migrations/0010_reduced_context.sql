-- What was left out of the conversation that a reply was sent: a reply is continued with the same.

ALTER TABLE replies
    ADD COLUMN images_after bigint, -- only messages with a greater chatts.seq were sent with their images; null: all were
    ADD COLUMN fields_after bigint; -- only those were sent with more than role and content; null: all were
