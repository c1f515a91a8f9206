"""Avro and CloudEvents from foreign producers, through a real Kafka and a real worker."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as cloudevents
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from kit import Kafka, MakeTopic, NewRecord, end_offsets, produce, read_all, wait_for
from kit.avro_plugin.avro_plugin import FIRST, ORDER  # type: ignore[import-not-found]  # noqa: F401
from kit.registry import Registry
from kit.worker_process import WorkerProcess
