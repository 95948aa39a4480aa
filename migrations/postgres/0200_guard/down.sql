DROP TABLE audit_checkpoint;
DROP TABLE audit_head;
DROP TABLE audit;
DROP TABLE token_uses;
DROP TABLE tokens;
