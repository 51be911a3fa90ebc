"""The embedded broker keeps what Apache Kafka promises, because it is Apache Kafka."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.embedded import kafka_jars
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.owned import MissingPrerequisiteError, StartError, free_port


def _producer(broker, **options):
    return Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 5, **options})


def _read(broker, topic, count, **options):
    """Read `count` records of partition 0 from its start, as (offset, value)."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "reads", **options})
    consumer.assign([TopicPartition(topic, 0, 0)])
    records = []
    while len(records) < count:
        for record in consumer.consume(count - len(records), timeout=30):
            assert record.error() is None
            records.append((record.offset(), record.value()))
    consumer.close()
    return records


def _end_offset(broker, topic):
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "asks"})
    _low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
    consumer.close()
    return high


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_of_every_codec_come_back_whole_and_in_order(broker, create_topic, codec):
    topic = create_topic(f"codec_{codec}")
    producer = _producer(broker, **{"compression.type": codec})
    values = [b"%d " % number * 50 for number in range(1000)]
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0
    assert _read(broker, topic, len(values)) == list(enumerate(values))


def test_a_record_bears_the_brokers_append_time(broker, create_topic):
    topic = create_topic("times")
    appended = []
    producer = _producer(broker)
    producer.produce(
        topic, b"value", timestamp=1, on_delivery=lambda _error, record: appended.append(record.timestamp())
    )
    assert producer.flush(30) == 0
    [(_kind, at)] = appended
    assert at > 1


def test_a_record_of_two_mebibytes_is_taken(broker, create_topic):
    topic = create_topic("large", max_message_bytes=3 * 1024 * 1024)
    value = os.urandom(2 * 1024 * 1024)
    producer = _producer(broker, **{"message.max.bytes": 3 * 1024 * 1024})
    producer.produce(topic, value)
    assert producer.flush(30) == 0
    assert _read(broker, topic, 1) == [(0, value)]


def test_topics_are_never_created_by_use(broker, unique_name):
    errors = []
    producer = _producer(broker, **{"message.timeout.ms": 3000})
    producer.produce(
        unique_name("nowhere"), b"value", on_delivery=lambda error, _record: errors.append(error.code())
    )
    assert producer.flush(30) == 0
    assert errors[0] in {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._MSG_TIMED_OUT,
    }


def test_a_group_goes_on_where_it_committed(broker, create_topic, unique_name):
    topic = create_topic("group", partitions=2)
    producer = _producer(broker)
    for number in range(20):
        producer.produce(topic, b"%d" % number, partition=number % 2)
    assert producer.flush(30) == 0
    options = {
        "bootstrap.servers": broker.bootstrap_servers,
        "group.id": unique_name("group"),
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }

    def some(count):
        consumer = Consumer(options)
        consumer.subscribe([topic])
        values = []
        while len(values) < count:
            values += [record.value() for record in consumer.consume(count - len(values), timeout=30)]
        consumer.commit(asynchronous=False)
        consumer.close()
        return values

    assert sorted(some(7) + some(13), key=int) == [b"%d" % number for number in range(20)]


def test_readers_of_committed_records_do_not_see_aborted_ones(broker, create_topic, unique_name):
    topic = create_topic("transactions")
    producer = _producer(broker, **{"transactional.id": unique_name("transaction")})
    producer.init_transactions(60)
    for word, ends in [(b"first", "commit"), (b"never", "abort"), (b"last", "commit")]:
        producer.begin_transaction()
        producer.produce(topic, word)
        assert producer.flush(30) == 0
        getattr(producer, f"{ends}_transaction")(60)
    # Each transaction's end takes an offset of its own.
    assert _read(broker, topic, 2, **{"isolation.level": "read_committed"}) == [(0, b"first"), (4, b"last")]
    uncommitted = _read(broker, topic, 3, **{"isolation.level": "read_uncommitted"})
    assert uncommitted == [(0, b"first"), (2, b"never"), (4, b"last")]
    assert _end_offset(broker, topic) == 6


def test_acknowledged_records_and_commits_survive_kill_9(tmp_path):
    with EmbeddedBroker(tmp_path) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        admin.create_topics([NewTopic("t", 1)])["t"].result(30)
        address, acknowledged, enough = broker.bootstrap_servers, [], threading.Event()
        producer = _producer(broker, acks="all", **{"message.timeout.ms": 2000, "log_level": 0})

        def note(error, record):
            if error is None:
                acknowledged.append((record.offset(), record.value()))
                if len(acknowledged) == 5000:
                    enough.set()

        def produce_until_it_dies():
            for number in range(1_000_000):
                if broker.process is None or not broker.process.running:
                    return
                while len(producer) > 50_000:  # A busy machine acknowledges more slowly than it queues.
                    producer.poll(0.05)
                producer.produce("t", b"%d" % number, on_delivery=note)
                producer.poll(0)

        producing = threading.Thread(target=produce_until_it_dies)
        producing.start()
        assert enough.wait(60)
        consumer = Consumer(
            {"bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False, "log_level": 0}
        )
        consumer.commit(offsets=[TopicPartition("t", 0, 1234)], asynchronous=False)
        broker.kill()
        producing.join(60)
        producer.flush(30)
        broker.start()
        assert broker.bootstrap_servers == address
        assert _end_offset(broker, "t") >= len(acknowledged)
        stored = _read(broker, "t", len(acknowledged))
        assert len(acknowledged) >= 5000
        assert set(acknowledged) <= set(stored)
        [committed] = consumer.committed([TopicPartition("t", 0)], timeout=30)
        assert committed.offset == 1234
        consumer.close()


def test_a_broker_listens_where_it_is_told_and_is_configured_in_kafkas_words(tmp_path):
    port, other = free_port("localhost"), free_port("localhost")
    configuration = {
        "listeners": f"PLAINTEXT://localhost:{port},SECOND://localhost:{other}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECOND:PLAINTEXT",
        "node.id": "7",
        "controller.quorum.voters": f"7@localhost:{(controller := free_port('localhost'))}",
    }
    with EmbeddedBroker(
        tmp_path, port, host="localhost", controller_port=controller, configuration=configuration
    ) as broker:
        assert broker.bootstrap_servers == f"localhost:{port}"
        for address in (port, other):
            admin = AdminClient({"bootstrap.servers": f"localhost:{address}"})
            [(node_id, node)] = admin.list_topics(timeout=10).brokers.items()
            assert (node_id, node.host, node.port) == (7, "localhost", address)
        broker.kill()


def test_a_directory_is_used_by_one_broker(tmp_path, broker):
    with pytest.raises(StartError, match=f"process {os.getpid()} uses .* already"):
        EmbeddedBroker(broker.directory).start()
    assert AdminClient({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=10).brokers


# Jars and Java -------------------------------------------------------------------------------


def test_many_processes_at_once_fetch_the_jars_once_and_whole(tmp_path):
    # A Maven that takes its time and counts how often it is asked.
    asked = tmp_path / "asked"
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        '#!/bin/sh\necho >> "' + str(asked) + '"\nfor argument; do case $argument in -DoutputDirectory=*)'
        ' out=${argument#*=};; esac; done\nmkdir -p "$out"; sleep 0.3\n'
        'touch "$out/kafka_1.jar" "$out/other.jar"\n'
    )
    maven.chmod(0o755)
    code = "from pipeline.embedded.kafka_jars import kafka_jars; print(len(list(kafka_jars().iterdir())))"
    environment = {
        **os.environ,
        "MSGMETER_CACHE": str(tmp_path / "cache"),
        "PATH": f"{maven.parent}:{os.environ['PATH']}",
    }
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["2"] * 3
    assert asked.read_text().count("\n") == 1


def test_a_failed_download_leaves_no_half_cache(tmp_path, monkeypatch):
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho no route to repository; exit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MissingPrerequisiteError, match="no route to repository"):
        kafka_jars.kafka_jars(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("kafka-*"))


def test_without_a_java_the_error_says_what_to_install(tmp_path, monkeypatch):
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingPrerequisiteError, match=r"Java 17.*is 8.*apt-get install"):
        kafka_jars.java()


def test_the_newer_java_of_several_is_taken(tmp_path, monkeypatch):
    home = tmp_path / "home" / "bin"
    home.mkdir(parents=True)
    for directory, version in ((home, "11.0.1"), (tmp_path, "21")):
        (directory / "java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        (directory / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(home.parent))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert Path(kafka_jars.java()) == tmp_path / "java"


def test_a_broker_that_cannot_start_shows_its_log(tmp_path):
    broker = EmbeddedBroker(tmp_path, heap_mebibytes=1)
    with pytest.raises(StartError, match=r"(?i)heap|memory"):
        broker.start()
