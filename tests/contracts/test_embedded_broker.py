"""The embedded broker keeps what a real one promises."""

from confluent_kafka import Consumer, Producer


def test_a_record_comes_back_with_the_brokers_append_time(broker, create_topic, unique_name):
    topic = create_topic("records")
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    producer.produce(topic, b"value", key=b"tenant", timestamp=1)
    assert producer.flush(20) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": unique_name("group"),
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    record = consumer.poll(20)
    consumer.close()
    assert (record.key(), record.value()) == (b"tenant", b"value")
    _kind, appended_at = record.timestamp()
    assert appended_at > 1
