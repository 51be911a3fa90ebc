"""Kafka and the ClickHouse engine on one machine, for a first look and for the tests."""
