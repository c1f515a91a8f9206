"""The configuration: which source counts, what is refused and how it is told, and that secrets stay secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kworker.config import Config, SchemaRegistrySettings, TopicSettings, find
from kworker.config.options import OPTIONS, Option
from kworker.errors import ConfigError

SECRET = "hunter2-and-more"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "kworker.toml"


def load(toml: str | Path | None = None, environ: Mapping[str, str] | None = None, **flags: object) -> Config:
    file = toml if isinstance(toml, Path) else None
    return Config.load({"group": "g", **flags}, environ or {}, file)


def faults_of(file: Path | None = None, environ: Mapping[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, environ, **flags)
    return caught.value.faults


def test_without_anything_the_documented_defaults_count() -> None:
    config = load()
    assert (config.topics, config.bootstrap, config.concurrency, config.order) == (
        ("tasks",),
        "127.0.0.1:9092",
        64,
        "unordered",
    )
    assert (config.admin_port, config.admin_port_explicit) == (9464, False)
    assert (config.drain_timeout, config.revoke_timeout, config.start_from) == (25.0, 10.0, "earliest")
    assert config.plugins is None
    assert config.processes >= 1
    assert (config.max_in_memory, config.max_in_memory_bytes, config.lost_slots) == (20_000, 64 << 20, 32)


# For each option: its text, the same as TOML, and what Config holds then.
VALUES: dict[str, tuple[str, str, object]] = {
    "group": ("billing", '"billing"', "billing"),
    "topic": ("orders", '["orders"]', ("orders",)),
    "bootstrap": ("a:1,b:2", '"a:1,b:2"', "a:1,b:2"),
    "concurrency": ("7", "7", 7),
    "processes": ("3", "3", 3),
    "order": ("key", '"key"', "key"),
    "plugin": ("http", '["http"]', ("http",)),
    "namespace": ("mine", '"mine"', "mine"),
    "schema_registry": ("http://r:8081/", '"http://r:8081"', SchemaRegistrySettings(url="http://r:8081")),
    "admin_host": ("0.0.0.0", '"0.0.0.0"', "0.0.0.0"),
    "admin_port": ("9464", "9464", 9464),
    "drain_timeout": ("1m", '"1m"', 60.0),
    "revoke_timeout": ("500ms", "0.5", 0.5),
    "from": ("latest", '"latest"', "latest"),
    "commit_interval": ("2s", '"2s"', 2.0),
    "max_in_memory": ("100", "100", 100),
    "max_in_memory_bytes": ("2MiB", '"2MiB"', 2 << 20),
    "lost_slots": ("5", "5", 5),
    "child_tasks": ("0", "0", 0),
    "child_resident": ("300MiB", '"300MiB"', 300 << 20),
    "child_memory": ("1GiB", '"1GiB"', 1 << 30),
    "child_cpu": ("30s", "30", 30.0),
    "child_files": ("256", "256", 256),
    "workers": ("3", "3", 3),
    "setup_timeout": ("1m", "60", 60.0),
    "stall_timeout": ("10s", "10", 10.0),
    "create_topics": ("false", "false", False),
    "reply_topic": ("^replies", '["^replies"]', ("^replies",)),
    "tracing": ("true", "true", True),
    "timekeeper": ("false", "false", False),
    "delay_partitions": ("12", "12", 12),
    "retry_in_memory": ("2m", '"2m"', 120.0),
    "retry_in_lane": ("1d", '"1d"', 86_400.0),
    "state_dir": ("/var/lib/kworker", '"/var/lib/kworker"', "/var/lib/kworker"),
    "log_format": ("json", '"json"', "json"),
    "log_level": ("DEBUG", '"debug"', "debug"),
}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_can_be_given_by_flag_environment_and_file(option: Option, toml: Path) -> None:
    text, in_toml, expected = VALUES[option.name]
    group = "" if option.name == "group" else 'group = "g"'
    toml.write_text(f"{option.name} = {in_toml}\n{group}\n")
    by_flag = Config.load({"group": "g", option.name: (text,) if option.many else text}, {}, None)
    by_environment = Config.load({}, {"KWORKER_GROUP": "g", option.variable: text}, None)
    by_file = Config.load({}, {}, toml)
    assert [getattr(config, option.attribute) for config in (by_flag, by_environment, by_file)] == [expected] * 3
    assert by_flag.admin_port_explicit == (option.name == "admin_port")


def test_flag_counts_over_environment_over_file(toml: Path) -> None:
    toml.write_text('concurrency = 1\ndrain_timeout = "1s"\norder = "key"\ntopic = ["file"]\n')
    environ = {"KWORKER_CONCURRENCY": "2", "KWORKER_DRAIN_TIMEOUT": "2s", "KWORKER_TOPIC": "one, two,"}
    config = load(toml, environ, concurrency="3")
    assert (config.concurrency, config.drain_timeout, config.order) == (3, 2.0, "key")
    assert config.topics == ("one", "two")
    assert load(toml, environ, topic=("flag",)).topics == ("flag",)  # a flag replaces the list
    assert load(toml, {"KWORKER_CONCURRENCY": ""}).concurrency == 1  # an empty variable says nothing


def test_a_comma_in_the_braces_of_a_regular_expression_parts_nothing() -> None:
    assert load(environ={"KWORKER_TOPIC": "^a{1,2}$, b,^c{3,}"}).topics == ("^a{1,2}$", "b", "^c{3,}")


def test_all_faults_are_told_at_once_each_with_its_place(toml: Path) -> None:
    toml.write_text(
        'concurency = 3\nmax_in_memory = "many"\n[tasks.thumb]\ntimeout = "soon"\nretries = 3\n'
        '[topics."a b"]\ndead_letter = "x!"\n[kafka]\n"client.rack" = [1]\n'
    )
    found = faults_of(toml, {"KWORKER_ADMIN_PORT": "http"}, group=None, order="random", kafka=("acks",))
    for expected in (
        f"{toml}: concurency: there is no such key: is concurrency meant?",
        f"{toml}: max_in_memory: 'many' is not a whole number",
        f"{toml}: [tasks.thumb] timeout: 'soon' is not a duration",
        f"{toml}: [tasks.thumb] retries: there is no such key",
        f"{toml}: [topics.a b] dead_letter: 'x!' is not 1 to 249 of the characters",
        f"{toml}: [kafka] client.rack: give a text",
        "KWORKER_ADMIN_PORT: 'http' is not a whole number from 0 to 65535",
        "--order: 'random' is none of unordered, key, partition",
        "-X number 1: it is not property=value",
        "group: not given: name the consumer group with --group",
    ):
        assert [fault for fault in found if fault.startswith(expected)], expected
    assert len(found) == 10
    assert not [fault for fault in found if "\n" in fault]


def test_what_cannot_be_used_keeps_its_default_when_read_for_a_check() -> None:
    config, faults = Config.read({"concurrency": "0", "order": "key"}, {}, None, group_needed=False)
    assert (config.concurrency, config.order, len(faults)) == (64, "key", 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'group = "g"\nconcurrency = = 3\n', "is not TOML: Invalid value (at line 2"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'topics = ["a"]\n', "topics: it is not a table: name each: [topics."),
        (b'plugins = ["a"]\n', "the list of plugins to load is called plugin"),
        (b"[tasks]\nx = 1\n", "[tasks.x]: it is not a table"),
        (b"concurrency = true\n", "concurrency: True is not a whole number"),
        (b'concurrency = "8"\n', "concurrency: '8' is not a whole number"),
        (b"order = 3\n", "order: 3 is none of"),
        (b"topic = [3]\n", "topic: 3 is not 1 to 249"),
        (b'create_topics = "yes"\n', "create_topics: 'yes' is neither true nor false"),
        (b"drain_timeout = true\n", "drain_timeout: True is not a duration"),
        (b"max_in_memory_bytes = 1.5\n", "max_in_memory_bytes: 1.5 is not a size"),
        (b"topic = []\n", "topic: the list is empty"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(toml: Path, content: bytes, expected: str) -> None:
    toml.write_bytes(content)
    (fault,) = faults_of(toml)
    assert expected in fault


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in faults_of(tmp_path / "absent.toml")[0]


def test_the_file_of_the_working_directory_is_found_when_none_is_named(tmp_path: Path) -> None:
    assert find(None, {}, tmp_path) is None
    (tmp_path / "kworker.toml").touch()
    assert find(None, {}, tmp_path) == tmp_path / "kworker.toml"
    assert find(None, {"KWORKER_CONFIG": "/etc/k.toml"}, tmp_path) == Path("/etc/k.toml")
    assert find("mine.toml", {"KWORKER_CONFIG": "/etc/k.toml"}, tmp_path) == Path("mine.toml")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", ".", "..", "x" * 250, "[a-z]+"])
def test_what_kafka_does_not_take_as_a_topic_is_refused(name: str) -> None:
    assert "--topic: " in faults_of(topic=(name,))[0]


@pytest.mark.parametrize("expression", ["^(", "^[a", "^*?+"])
def test_a_regular_expression_must_compile(expression: str) -> None:
    assert "is not a regular expression" in faults_of(topic=(expression,))[0]


@pytest.mark.parametrize("value", ["", "host:", "host:0", "host:65536", "a b:1", "host:9092,", "http://x:1/y"])
def test_what_is_no_broker_is_refused(value: str) -> None:
    assert "is not host:port of a Kafka broker" in faults_of(bootstrap=value)[0]


@pytest.mark.parametrize("value", ["kafka", "10.0.0.1:9092", "[::1]:9092", "SASL_SSL://b-1.example.org:9094, b-2:1"])
def test_brokers_as_librdkafka_takes_them(value: str) -> None:
    assert load(bootstrap=value).bootstrap == value.replace(" ", "")


# FAULTS.md, bad input 27: a retry loop is refused at start.
def test_a_dead_letter_topic_that_is_its_own_source_is_refused(toml: Path) -> None:
    toml.write_text('[topics."orders"]\ndead_letter = "orders"\n')  # not even subscribed
    assert "dead letters would be run again" in faults_of(toml)[0]


def test_reading_a_topic_and_its_dead_letters_is_refused() -> None:
    assert "run for ever" in faults_of(topic=("orders", "orders.dlq"))[0]


def test_reading_a_configured_dead_letter_topic_of_what_is_read_is_refused(toml: Path) -> None:
    toml.write_text('topic = ["a", "b"]\n[topics.a]\ndead_letter = "b"\n')
    assert "topic b: it holds the dead letters of a" in faults_of(toml)[0]
    toml.write_text('topic = ["a", "b"]\n[topics.a]\ndead_letter = "b"\n[topics.b]\ndead_letter = "a"\n')
    assert len(faults_of(toml)) == 2


def test_reading_dead_letters_that_a_regular_expression_produces_is_refused() -> None:
    assert "run for ever" in "".join(faults_of(topic=("^orders", "orders.dlq")))


def test_dead_letters_alone_may_be_read(toml: Path) -> None:
    assert load(topic=("orders.dlq",)).dead_letter("orders.dlq") == "orders.dlq.dlq"
    toml.write_text('topic = ["orders", "orders.dlq"]\n[topics.orders]\ndead_letter = "elsewhere"\n')
    assert load(toml).dead_letter("orders") == "elsewhere"


def test_topics_of_kworkers_own_are_refused(toml: Path) -> None:
    assert "kworker's own" in faults_of(topic=("kworker.delayed",))[0]
    assert load(topic=("kworker.delayed",), namespace="other").topics == ("kworker.delayed",)
    toml.write_text('[topics.a]\ndead_letter = "kworker.a"\n')
    assert "reserved" in faults_of(toml)[0]


def test_a_name_without_room_for_dlq_needs_a_dead_letter_topic(toml: Path) -> None:
    name = "x" * 246
    assert "set dead_letter" in faults_of(topic=(name,))[0]
    toml.write_text(f'[topics."{name}"]\ndead_letter = "x.dlq"\n')
    assert load(toml, topic=(name,)).dead_letter(name) == "x.dlq"


def test_limits_that_contradict_each_other_are_refused() -> None:
    assert "less than concurrency" in faults_of(max_in_memory="10", concurrency="11")[0]
    assert "shorter than max.poll.interval.ms" in faults_of(revoke_timeout="5m")[0]
    assert load(revoke_timeout="5m", kafka=("max.poll.interval.ms=600000",)).revoke_timeout == 300


def test_a_regular_expression_never_means_topics_of_kworker_or_kafka_or_dead_letters(toml: Path) -> None:
    toml.write_text('[topics.orders]\ndead_letter = "orders-dead"\n')
    config = load(toml, topic=("^.*", "named"))
    taken = ["orders", "orders.dlq", "orders-dead", "kworker.delayed", "__consumer_offsets", "named"]
    assert [topic for topic in taken if config.takes(topic)] == ["orders", "named"]
    assert not load(topic=("^ord",)).takes("my-orders")


def test_tables_are_read(toml: Path) -> None:
    toml.write_text(
        '[tasks."thumbnail"]\ntimeout = "30s"\nmax_attempts = 3\nconcurrency = 4\n'
        '[topics."orders"]\ntask = "orders.receive"\ndead_letter = "orders.dead"\n'
        '[plugins.http]\nallow = ["https://hooks.example.org/"]\n'
    )
    config = load(toml)
    assert config.tasks == {"thumbnail": {"timeout": 30.0, "max_attempts": 3, "concurrency": 4}}
    assert config.topic_settings == {"orders": TopicSettings(task="orders.receive", dead_letter="orders.dead")}
    assert config.plugin_settings == {"http": {"allow": ["https://hooks.example.org/"]}}
    assert config.topics == ("tasks",)  # a table describes a topic, it does not subscribe to it


def test_lost_slots_follow_concurrency_unless_given() -> None:
    assert load(concurrency="2").lost_slots == 4
    assert load(concurrency="100").lost_slots == 50
    assert load(concurrency="100", lost_slots="3").lost_slots == 3


def test_kafka_properties_come_from_all_three_sources(toml: Path) -> None:
    toml.write_text(
        '[kafka]\n"security.protocol" = "ssl"\nfetch.wait.max.ms = 100\n"check.crcs" = true\n"client.rack" = "file"\n'
    )
    environ = {"KWORKER_KAFKA_CLIENT_RACK": "environment", "KWORKER_KAFKA_LOG_LEVEL": "7"}
    config = load(toml, environ, kafka=("security.protocol=sasl_ssl", "sasl.username=a=b", "x=1", "x=2"))
    assert config.kafka == {
        "security.protocol": "sasl_ssl",
        "fetch.wait.max.ms": "100",
        "check.crcs": "true",
        "client.rack": "environment",
        "log_level": "7",
        "sasl.username": "a=b",
        "x": "2",  # as with other flags the last one counts
    }


def test_what_kafka_properties_are_judged_to_be_names_where_they_were_given(toml: Path) -> None:
    toml.write_text('[kafka]\n"a.b" = 1\n')
    with pytest.raises(ConfigError) as caught:
        Config.load(
            {"group": "g", "kafka": ("c=1",)},
            {"KWORKER_KAFKA_D_E": "1"},
            toml,
            vet=lambda kafka: dict.fromkeys([*kafka, ""], "bad"),
        )
    assert caught.value.faults == [
        f"{toml}: [kafka] a.b: bad",
        "KWORKER_KAFKA_D_E: bad",
        "-X c: bad",
        "Kafka properties: bad",
    ]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_can_come_from_a_file(tmp_path: Path, toml: Path, ending: str) -> None:
    path = tmp_path / "pw"
    path.write_bytes(f"{SECRET}{ending}".encode())
    toml.write_text(f'[kafka]\n"sasl.password.file" = "{path}"\n')
    for config in (
        load(toml),
        load(None, {"KWORKER_KAFKA_SASL_PASSWORD_FILE": str(path)}),
        load(kafka=(f"sasl.password.file={path}",)),
        load(toml, {"KWORKER_KAFKA_SASL_PASSWORD": "lower"}, kafka=(f"sasl.password.file={path}",)),
    ):
        assert config.kafka == {"sasl.password": SECRET}


def test_only_one_newline_is_taken_off_a_secret(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(" a\n\n")
    assert load(kafka=(f"sasl.password.file={tmp_path / 'pw'}",)).kafka["sasl.password"] == " a\n"


def test_a_secret_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"\xff")
    found = faults_of(kafka=("sasl.password.file=/absent/pw", f"ssl.key.password.file={tmp_path / 'pw'}"))
    assert "-X sasl.password.file: cannot read '/absent/pw': No such file" in found[0]
    assert "it is not UTF-8 text" in found[1]


def test_a_property_and_its_file_in_one_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("x")
    (fault,) = faults_of(kafka=("sasl.password=y", f"sasl.password.file={tmp_path / 'pw'}"))
    assert "leave one of them out" in fault


def test_librdkafkas_own_file_properties_are_passed_on() -> None:
    name = "sasl.oauthbearer.assertion.private.key.file"
    assert load(kafka=(f"{name}=/k.pem",)).kafka == {name: "/k.pem"}


def test_no_secret_is_ever_shown(toml: Path, tmp_path: Path) -> None:
    (tmp_path / "user").write_text(SECRET)
    secrets = [
        "sasl.password", "ssl.key.password", "ssl.keystore.password", "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config", "ssl.key.pem", "ssl.certificate.pem", "ssl.ca.pem",
    ]  # fmt: skip
    toml.write_text(
        f'[plugins.http]\nsecrets = {{ a = "{SECRET}" }}\nurl = "https://user:{SECRET}@example.org/"\n'
        f'[[plugins.http.targets]]\napi_key = "{SECRET}"\nname = "open"\n'
    )
    config = load(toml, kafka=(*(f"{name}={SECRET}" for name in secrets), f"sasl.username.file={tmp_path / 'user'}"))
    shown = f"{config!r} {config} {config.redacted()}"
    assert SECRET not in shown
    assert "'name': 'open'" in shown
    assert config.kafka["sasl.password"] == SECRET
    assert config.plugin_settings["http"]["targets"][0]["api_key"] == SECRET


def test_no_secret_is_shown_by_a_fault(toml: Path) -> None:
    found = faults_of(
        toml,
        {"KWORKER_KAFKA_SASL_PASWORD_FILE": "/absent"},
        kafka=(SECRET, f"sasl.password:{SECRET}", f"={SECRET}"),
    )
    assert len(found) == 5
    assert SECRET not in "".join(found)


def test_variables_that_kubernetes_sets_for_services_are_no_options() -> None:
    config = load(
        None,
        {
            "KWORKER_ADMIN_PORT": "tcp://10.0.0.7:9464",  # a Service called kworker-admin
            "KWORKER_ADMIN_PORT_9464_TCP_ADDR": "10.0.0.7",
            "KWORKER_ADMIN_SERVICE_PORT_HTTP": "9464",
            "KWORKER_KAFKA_SERVICE_HOST": "10.0.0.8",  # a Service called kworker-kafka
            "KWORKER_KAFKA_SERVICE_PORT": "9092",
            "KWORKER_KAFKA_PORT": "tcp://10.0.0.8:9092",
            "KWORKER_KAFKA_PORT_9092_TCP": "tcp://10.0.0.8:9092",
        },
    )
    assert (config.admin_port, config.admin_port_explicit, config.kafka, config.notes) == (9464, False, {}, ())


def test_a_misspelled_variable_is_noted() -> None:
    notes = load(None, {"KWORKER_CONCURENCY": "3", "KWORKER_TEST_BOOTSTRAP": "x", "OTHER": "1"}).notes
    assert len(notes) == 1
    assert "is KWORKER_CONCURRENCY meant?" in notes[0]
