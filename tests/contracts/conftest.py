"""Topics on the broker of the test session, and the command line against them."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from log_topics import PARTITIONS, delete_topics

from pipeline.cli import main
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.settings import Settings
from pipeline.topics import create_topics


@pytest.fixture(scope="module")
def settings(broker: EmbeddedBroker) -> Iterator[Settings]:
    """Settings with their topics, whose names are fixed: made for this module and taken away after it."""
    made = Settings(kafka=broker.bootstrap_servers, partitions=PARTITIONS)
    delete_topics(made)
    create_topics(made)
    yield made
    delete_topics(made)


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("MSGMETER_KAFKA", settings.kafka)
    monkeypatch.setenv("MSGMETER_PARTITIONS", str(settings.partitions))
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])
