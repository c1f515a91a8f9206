"""Delayed tasks: who owns a partition of the delay log keeps what waits there, and hands it over when it is due."""
