-- What a reply was sent, and which message it continues.

ALTER TABLE replies
    ADD COLUMN context_first bigint, -- chatts.seq of the first message sent that is not a system message
    ADD COLUMN context_last bigint, -- chatts.seq of the last message sent, 0 if none was; null: begun by an older version
    ADD COLUMN continues_seq bigint, -- chatts.seq of the assistant's message that this reply continues
    ADD COLUMN continues_at int, -- how many characters that message had when the reply began
    ADD COLUMN continuations int NOT NULL DEFAULT 0; -- how often the reply was continued after Ollama broke
