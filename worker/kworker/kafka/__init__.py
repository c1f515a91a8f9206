"""The edge to Kafka: settings of its clients, the consumer's thread, the producer, and topics."""
