DROP TABLE spent;
DROP TABLE agent_state;
DROP TABLE settings;
DROP TABLE domain_requests;
DROP TABLE domains;
DROP TABLE mailbox;
DROP TABLE tasks;
