DROP TABLE heartbeats;
DROP TABLE history;
DROP TABLE events;
DROP TABLE agents;
DROP TABLE commits;
DROP TABLE installation;
DROP TABLE schema_info;
