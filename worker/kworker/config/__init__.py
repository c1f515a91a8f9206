"""One frozen `Config` from flags, environment and kworker.toml; every fault is reported at once.

options.py      what can be configured, and how each value is read
properties.py   the properties of the Kafka client: -X, KWORKER_KAFKA_*, [kafka], secrets from files
load.py         the three sources, one over the other; what contradicts what
schema_registry.py  how to reach the schema registry
config.py       the Config, what follows from it, and how it is shown without its secrets
"""

from __future__ import annotations

from kworker.config.config import Config, TopicSettings
from kworker.config.load import find
from kworker.config.schema_registry import SchemaRegistrySettings

__all__ = ["Config", "SchemaRegistrySettings", "TopicSettings", "find"]
