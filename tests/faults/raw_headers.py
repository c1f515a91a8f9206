"""Records that confluent_kafka's Producer does not write: header names that are not UTF-8.

Other clients write them (a name is a string to Kafka's protocol, bytes to librdkafka), so the C API is called.
"""

from __future__ import annotations

import ctypes

from confluent_kafka import cimpl

PRODUCER = 0
END, TOPIC, VALUE, KEY, FLAGS, HEADER = 0, 1, 4, 5, 7, 9  # rd_kafka_vtype_t
COPY = ctypes.c_int(2)


def produce_raw(bootstrap: str, topic: str, value: bytes, key: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Write one record, acknowledged."""
    library = ctypes.CDLL(cimpl.__file__)  # it brings its librdkafka along
    for function in (library.rd_kafka_conf_new, library.rd_kafka_new):
        function.restype = ctypes.c_void_p
    fault = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    setting = (b"bootstrap.servers", bootstrap.encode())
    assert library.rd_kafka_conf_set(conf, *setting, fault, ctypes.c_size_t(512)) == 0, fault.value
    client = ctypes.c_void_p(library.rd_kafka_new(PRODUCER, conf, fault, ctypes.c_size_t(512)))
    assert client.value is not None, fault.value
    try:
        parts: list[object] = [TOPIC, topic.encode(), VALUE, value, ctypes.c_size_t(len(value))]
        parts += [KEY, key, ctypes.c_size_t(len(key)), FLAGS, COPY]
        for name, content in headers:
            parts += [HEADER, name, content, ctypes.c_ssize_t(len(content))]
        assert library.rd_kafka_producev(client, *parts, END) == 0
        assert library.rd_kafka_flush(client, 10_000) == 0, "not acknowledged"
    finally:
        library.rd_kafka_destroy(client)
