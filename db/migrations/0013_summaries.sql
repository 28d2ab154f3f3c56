-- Summaries of what models are not sent any more. Rows are not changed: a reply is continued with the one it was sent.

CREATE TABLE context_summaries (
    tenant text NOT NULL,
    appid text NOT NULL,
    until bigint NOT NULL, -- chatts.seq of the last message that it summarises; it counts while that message is there
    id bigint GENERATED ALWAYS AS IDENTITY, -- of those with the same "until" the newest counts
    text text NOT NULL, -- empty: the summary was removed
    edited boolean NOT NULL, -- whether a person has written it
    created timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, appid, until, id)
);

ALTER TABLE replies
    ADD COLUMN summary bigint; -- context_summaries.id of the summary that the model was sent; null if none was
