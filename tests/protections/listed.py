"""Every protection against the faults that msgmeter promises to outlive, with the test that holds it."""

from tests.protections.protection import Edit, Protection

_CLOSING = "pipeline/stream/closing.py"
_FOLDING = "pipeline/stream/folding.py"
_EPOCHS = "tests/stream/test_epochs.py"

PROTECTIONS: tuple[Protection, ...] = (
    # What a kill may cut in two.
    Protection(
        fault="kill -9 between two tables",
        keeps="accounts are written last, so one that has seen a record proves that identities and windows have",
        edits=(
            Edit(
                _CLOSING,
                "        await asyncio.gather(\n"
                "            tables.identities.write(partition, changes.identities, applied_offset=applied),\n"
                "            tables.windows.write(partition, changes.windows, applied_offset=applied),\n"
                "        )\n"
                "        await tables.accounts.write(partition, changes.accounts, applied_offset=applied)\n",
                "        await tables.accounts.write(partition, changes.accounts, applied_offset=applied)\n"
                "        await asyncio.gather(\n"
                "            tables.identities.write(partition, changes.identities, applied_offset=applied),\n"
                "            tables.windows.write(partition, changes.windows, applied_offset=applied),\n"
                "        )\n",
            ),
        ),
        test=f"{_EPOCHS}::test_facts_then_publications_then_snapshots_then_tables_then_acks",
    ),
    Protection(
        fault="kill -9 between facts and tables",
        keeps="nothing is kept as applied before it is stored",
        edits=(
            Edit(
                _CLOSING,
                "        await self._store(epoch)\n        await self._publish(epoch)\n",
                "        await self._publish(epoch)\n",
            ),
            Edit(
                _CLOSING,
                "            await self._keep(epoch)\n",
                "            await self._keep(epoch)\n            await self._store(epoch)\n",
            ),
        ),
        test=f"{_EPOCHS}::test_facts_then_publications_then_snapshots_then_tables_then_acks",
    ),
    Protection(
        fault="kill -9 between alerts and tables",
        keeps="nothing is kept as applied before what it tells others is acknowledged",
        edits=(
            Edit(
                _CLOSING,
                "        await self._publish(epoch)\n",
                "        told = asyncio.ensure_future(self._publish(epoch))\n",
            ),
            Edit(
                _CLOSING,
                "            await self._keep(epoch)\n",
                "            await self._keep(epoch)\n            await told\n",
            ),
        ),
        test=f"{_EPOCHS}::test_facts_then_publications_then_snapshots_then_tables_then_acks",
    ),
    Protection(
        fault="kill -9 between commit and tables",
        keeps="offsets are committed when state is kept, not before",
        edits=(
            Edit(
                _CLOSING,
                "            try:\n                await self._write(partition, changes)\n",
                "            try:\n"
                "                for event in events:\n"
                "                    event.ack()\n"
                "                await self._write(partition, changes)\n",
            ),
        ),
        test=f"{_EPOCHS}::test_a_partition_revoked_during_its_write_is_not_acknowledged_and_others_are",
    ),
    # Who has lost a partition.
    Protection(
        fault="a worker sleeps past its session and has a checkpoint to write",
        keeps="it asks the group before it writes",
        edits=(Edit(_CLOSING, "        while not await self._owns():\n", "        while False:\n"),),
        test=f"{_EPOCHS}::test_a_checkpoint_of_lost_partitions_is_neither_written_nor_acknowledged",
    ),
    Protection(
        fault="a partition is reassigned in the middle of an epoch",
        keeps="its fold is dropped with all that it knows",
        edits=(Edit(_FOLDING, "            self.partitions.pop(partition, None)\n", "            pass\n"),),
        test=f"{_EPOCHS}::test_a_partition_lost_during_a_cut_is_not_kept",
    ),
    Protection(
        fault="a partition goes away and comes back in the middle of an epoch",
        keeps="changes of the fold before are not written",
        edits=(
            Edit(
                _FOLDING,
                "        return self.partitions.get(owned.fold.partition) is owned\n",
                "        return owned.fold.partition in self.partitions\n",
            ),
        ),
        test=f"{_EPOCHS}::test_changes_of_a_partition_that_went_and_came_back_are_not_written",
    ),
    Protection(
        fault="a chunk was fetched before a rebalance",
        keeps="it is passed over",
        edits=(Edit(_FOLDING, " and generation_id == self._generation()", ""),),
        test=f"{_EPOCHS}::test_a_chunk_of_an_earlier_generation_is_passed_over",
    ),
    Protection(
        fault="a partition is reassigned while its tables can still be read",
        keeps="it is not taken up again from them",
        edits=(Edit(_FOLDING, " and self._tables.are_owned(partition)", ""),),
        test=f"{_EPOCHS}::test_a_revoked_partition_is_not_taken_up_again_from_tables_that_can_still_be_read",
    ),
    Protection(
        fault="records are missing in what is fetched",
        keeps="the worker ends and says so; nothing behind the hole is kept",
        edits=(Edit(_FOLDING, "if chunk.start_offset > owned.folded_offset + 1:", "if False:"),),
        test=f"{_EPOCHS}::test_a_chunk_behind_a_missing_one_is_not_folded",
    ),
    Protection(
        fault="a look-up is awaited while a checkpoint lets go of identities",
        keeps="it is asked again until nothing is new",
        edits=(
            Edit(
                _FOLDING,
                "                asked_charges.update(missing)\n",
                "                return Stored(charges, messages)\n",
            ),
        ),
        test=f"{_EPOCHS}::test_an_identity_let_go_during_a_look_up_is_looked_up_too",
    ),
    # ClickHouse.
    Protection(
        fault="a connection to ClickHouse drops after the insert",
        keeps="the same rows are repeated under the same token",
        edits=(
            Edit(
                _CLOSING,
                "call = partial(storing.insert_facts, columns=fact_columns(facts), token=self._tokens.next())",
                "call = lambda client: storing.insert_facts("
                "client, columns=fact_columns(facts), token=self._tokens.next())",
            ),
        ),
        test=f"{_EPOCHS}::test_a_passing_failure_repeats_the_same_rows_under_the_same_token",
    ),
    Protection(
        fault="ClickHouse's answer to a look-up is cut off",
        keeps="nothing found is believed of a whole answer only: it would be charged twice",
        edits=(
            Edit(
                "pipeline/clickhouse/facts.py",
                "    for row in ask_whole(client, filled, settings=settings):\n",
                "    for row in ask(client, filled, settings=settings):\n",
            ),
            Edit(
                "pipeline/clickhouse/facts.py",
                "import Table, ask_whole\n",
                "import Table, ask\n",
            ),
        ),
        test="tests/faults/test_clickhouse_faults.py::test_an_answer_that_is_cut_off_anywhere_is_never_taken_for_less",
    ),
    # Kafka.
    Protection(
        fault="the broker answers late",
        keeps="flushing waits for every acknowledgement (mend B)",
        edits=(
            Edit(
                "pipeline/stream/producer.py",
                "        if waited_for:\n            await asyncio.wait(waited_for)\n",
                "        await asyncio.sleep(0.1)\n        waited_for = [each for each in waited_for if each.done()]\n",
            ),
        ),
        test="tests/stream/test_mends_flush.py::test_flush_returns_only_when_everything_enqueued_before_it_is_stored",
    ),
    Protection(
        fault="the broker refuses a record",
        keeps="the process ends before anything behind it is committed (mend C)",
        edits=(
            Edit(
                "pipeline/stream/sensors.py",
                '        end_process(ExitCode.SEND_FAILED, f"a record could not be written to Kafka: {exc!r}", cause=exc)\n',  # noqa: E501 - the line as it is
                "        return\n",
            ),
        ),
        test="tests/stream/test_mends_endings.py::test_a_record_that_cannot_be_sent_ends_the_process",
    ),
    Protection(
        fault="an exception nobody foresaw",
        keeps="the process ends before its chunk is acknowledged (mend D)",
        edits=(
            Edit(
                "pipeline/stream/exits.py",
                '            end_process(ExitCode.AGENT_FAILED, f"{agent.__qualname__} raised {error!r}", cause=error)\n',  # noqa: E501 - the line as it is
                "            raise\n",
            ),
        ),
        test="tests/stream/test_mends_endings.py::test_an_exception_in_an_agent_ends_the_process_and_its_chunk_is_not_committed",
    ),
    Protection(
        fault="a worker is stopped and wakes up",
        keeps="its watchdog ends it (mend G)",
        edits=(
            Edit(
                "pipeline/stream/watchdog.py",
                "            if stalled_seconds > self._limit_seconds:\n",
                "            if False:\n",
            ),
        ),
        test="tests/stream/test_mends_endings.py::test_a_process_that_was_paused_ends_when_it_wakes",
    ),
)
