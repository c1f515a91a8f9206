"""FAULTS.md on a real Kafka: one test a row, named after it."""
