-- The model's window: from which message on a conversation is sent, what was sent for a reply, and what is never sent.

CREATE TABLE context_cuts (
    tenant text NOT NULL,
    appid text NOT NULL,
    model text NOT NULL,
    first bigint NOT NULL, -- chatts.seq of the first message that is sent; the cut counts while that message is there
    context_window int NOT NULL, -- tokens; with another window the conversation is cut anew
    left_out int NOT NULL, -- number of messages before it, system messages not counted
    PRIMARY KEY (tenant, appid, model)
);

ALTER TABLE replies
    ADD COLUMN context json; -- what the model was sent, for the history; null: the reply is streaming, or older

ALTER TABLE chatts
    ADD COLUMN left_out boolean; -- true: alone it exceeds the window of the model that it was sent to

CREATE TABLE token_estimates (
    model text PRIMARY KEY,
    state json NOT NULL -- what was learned of its tokenizer from the counts of its replies
);
