"""The rules of the meter, pure: no clock, no I/O, no randomness, no float; importable without Kafka."""
