DROP TABLE event_head;
DROP TABLE event_order;
DROP TABLE event_pending;
