"""Every protection against the faults that msgmeter promises to outlive, with the test that holds it."""

from tests.protections.protection import Edit, Protection

_CLOSING = "pipeline/stream/closing.py"
_FOLDING = "pipeline/stream/folding.py"
_EPOCHS = "tests/stream/test_epochs.py"
_CHUNKS = "pipeline/stream/chunks.py"
_CHUNKS_TEST = "tests/stream/test_chunks.py"
_STORES = "pipeline/stream/stores.py"
_CLIENT = "pipeline/clickhouse/client.py"
_FAULTS = "tests/faults/test_clickhouse_faults.py"
_TAKEOVERS = "tests/faults/test_takeovers.py"
_STORES_TEST = "tests/stream/test_stores.py"


def _without(file: str, old: str, new: str = "") -> tuple[Edit, ...]:
    """One edit, of one place."""
    return (Edit(file, old, new),)


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
    Protection(
        fault="a frozen worker wakes with identity deltas in hand, and it and its successor recover again, each on its"
        " own disk",
        keeps="neither deletes the other's deltas as absent at an offset that it has completed",
        edits=_without(
            "pipeline/stream/changelog.py",
            'store.position_of(partition).floor if keys_follow_log else b""',
            "store.position_of(partition).floor",
        ),
        test="tests/stream/test_identity_lineages.py::test_no_worker_deletes_what_another_has_named_otherwise",
    ),
    Protection(
        fault="a frozen worker wakes with an identity delta in hand when all around it is deleted",
        keeps="what lies before a hole in the log is not taken up, nor counted as needed by those who come later",
        edits=_without("pipeline/core/identity_deltas.py", "delta.number > told_until + 1 or ", ""),
        test="tests/core/test_identity.py::test_a_delta_that_came_late_brings_no_draft_back",
    ),
    Protection(
        fault="an identity delta that an earlier program numbered comes late, when those behind it are deleted",
        keeps="the hole is seen by the identities that are missing, and the worker starts",
        edits=_without("pipeline/core/identity_deltas.py", " or delta.base > end:", ":"),
        test="tests/core/test_identity.py::test_a_delta_numbered_as_of_old_that_came_late_is_no_beginning_either",
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
    Protection(
        fault="ClickHouse dies while it writes the head of an answer",
        keeps="an answer without its summary is none: http.client takes the stream's end for the head's",
        edits=_without(_CLIENT, "    _assert_whole_head(result.summary)\n"),
        test=f"{_FAULTS}::test_figures_for_people_are_never_those_of_an_answer_without_an_end",
    ),
    Protection(
        fault="ClickHouse dies while it writes the head of an insert's answer",
        keeps="the insert is repeated: its 200 may have been written before the rows were",
        edits=_without(_CLIENT, "    _assert_whole_head(told.summary)\n"),
        test=f"{_FAULTS}::test_a_lasting_fault_is_a_passing_error_and_says_how_long_to_wait",
    ),
    Protection(
        fault="windows summed from facts are cut off",
        keeps="no window keeps what it was",
        edits=_without(
            "pipeline/clickhouse/queries.py",
            "    return ask_whole(client, _statement(name), parameters=parameters)\n",
            "    return ask(client, _statement(name), parameters=parameters)\n",
        ),
        test=f"{_FAULTS}::test_an_answer_that_is_cut_off_anywhere_is_never_taken_for_less",
    ),
    Protection(
        fault="a balancer has waited for an insert for too long",
        keeps="its 408 passes by itself, where other 4xx end the worker",
        edits=_without(_CLIENT, ' and f"HTTP status {_REQUEST_TIMEOUT}" not in text'),
        test=f"{_FAULTS}::test_a_lasting_fault_is_a_passing_error_and_says_how_long_to_wait",
    ),
    Protection(
        fault="the driver repeats an insert that was executed",
        keeps="the token stores it once",
        edits=_without(
            _CLIENT,
            '"insert_deduplication_token": token',
            '"insert_deduplication_token": f"{token}{__import__(\'time\').time_ns()}"',
        ),
        test=f"{_FAULTS}::test_every_row_is_stored_once_whatever_happens_to_its_insert",
    ),
    Protection(
        fault="an insert of a zombie arrives behind its successor's",
        keeps="the rows of the later place in the log stay",
        edits=_without(
            "pipeline/stream/storing.py",
            "*dimensions, *cell, window.applied_offset)",
            "*dimensions, *cell, 0)",
        ),
        test=f"{_TAKEOVERS}::test_an_insert_of_a_zombie_that_arrives_after_its_successors_changes_nothing",
    ),
    Protection(
        fault="the network is cut between a worker and Kafka alone",
        keeps="accounts it stores late do not replace its successor's",
        edits=_without(
            "pipeline/stream/storing.py", "        account.applied_offset,\n    )", "        0,\n    )"
        ),
        test="tests/faults/test_network.py",
    ),
    Protection(
        fault="a zombie writes a table between asking for its partitions and noticing",
        keeps="the values of the later place in the log win, wherever they stand in the changelog",
        edits=_without(
            "pipeline/stream/changelog.py",
            "            if applied < held_applied or (",
            "            if False and (",
        ),
        test=f"{_TAKEOVERS}::test_tables_of_a_zombie_that_slept_between_asking_and_writing_change_nothing",
    ),
    # Machines.
    Protection(
        fault="the disk is full while tables are written",
        keeps="the worker ends and says what to do",
        edits=_without(
            _STORES,
            "            with full_disk_ends_process(self.partition_path(partition)):\n                self",
            "            if True:\n                self",
        ),
        test="tests/faults/test_disk.py",
    ),
    Protection(
        fault="the disk is full while tables are opened",
        keeps="no file is taken for corrupt and wiped",
        edits=_without(
            _STORES,
            "with shared_timer.opening(), full_disk_ends_process(self.partition_path(partition)):",
            "with shared_timer.opening():",
        ),
        test="tests/faults/test_disk.py",
    ),
    Protection(
        fault="a worker's clock steps an hour",
        keeps="the watchdog sees time pass, not what a clock shows",
        edits=_without(
            "pipeline/stream/watchdog.py",
            '_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)',
            "_CLOCK = time.CLOCK_REALTIME",
        ),
        test="tests/faults/test_clocks.py::test_a_workers_clock_that_steps_an_hour_changes_nothing",
    ),
    Protection(
        fault="a refusal quotes what it refuses",
        keeps="no topic, table, log or metric holds what only the carrier may read",
        edits=_without(
            "pipeline/core/outcomes.py",
            '"digest": blake2b(value, digest_size=16).hexdigest(),',
            '"digest": value[:400].hex(),',
        ),
        test="tests/faults/test_leaks.py",
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
    Protection(
        fault="a log lost its end and goes on before what was committed",
        keeps="it is not read from its beginning as if all were repeated",
        edits=_without(_CHUNKS, "if chunk.start_offset < expected:", "if False:"),
        test=f"{_CHUNKS_TEST}::test_a_log_that_ends_before_the_committed_offset_is_not_read_from_its_beginning",
    ),
    Protection(
        fault="retention overtakes a worker that runs",
        keeps="it ends instead of going on behind the hole",
        edits=_without(_CHUNKS, "if chunk.start_offset > expected:", "if False:"),
        test=f"{_CHUNKS_TEST}::test_a_reader_that_retention_overtakes_ends_instead_of_going_on_behind_the_hole",
    ),
    Protection(
        fault="a gateway aborts a transaction",
        keeps="aborted records are not read",
        edits=_without(
            "pipeline/stream/fetching.py",
            'consumer._isolation_level = "read_committed"',
            'consumer._isolation_level = "read_uncommitted"',
        ),
        test=f"{_CHUNKS_TEST}::test_transaction_markers_and_aborted_records_are_the_only_holes",
    ),
    Protection(
        fault="the last broker that has a record dies",
        keeps="no leader is elected that lacks it",
        edits=_without("pipeline/topics.py", '        "unclean.leader.election.enable": "false",\n'),
        test="tests/contracts/test_kafka_cluster.py"
        "::test_migrate_gives_every_topic_three_replicas_of_which_two_must_have_a_write",
    ),
    # State that is kept.
    Protection(
        fault="a worker that has lost a partition appends old values",
        keeps="of two values of a key the one that has applied more of the log wins, wherever it stands",
        edits=_without(
            "pipeline/stream/changelog.py",
            "if applied < held_applied or (held is None and applied == held_applied and value is not None):",
            "if False:",
        ),
        test="tests/stream/test_tables.py"
        "::test_an_older_value_behind_a_newer_one_loses_and_the_newer_one_is_written_again",
    ),
    Protection(
        fault="a newer program has written a changelog",
        keeps="nothing of it is taken up",
        edits=_without("pipeline/stream/changelog.py", "        check_versions(changes.values())\n"),
        test=f"{_STORES_TEST}::test_a_newer_value_in_a_changelog_stops_the_replay_before_anything_of_its_batch_is_stored",
    ),
    Protection(
        fault="a newer program has written the local files",
        keeps="they are left alone",
        edits=_without(_STORES, "if version > kept.STATE_VERSION:", "if False:"),
        test=f"{_STORES_TEST}::test_a_file_that_a_newer_program_wrote_is_refused_when_it_is_opened_and_left_alone",
    ),
    Protection(
        fault="a disk flips a bit",
        keeps="a damaged value is never given",
        edits=_without(_STORES, "return get(key, verify_checksums=True)", "return get(key)"),
        test=f"{_STORES_TEST}::test_a_flipped_bit_is_never_given_as_a_value_and_the_file_is_rebuilt_when_it_is_opened_next",
    ),
    Protection(
        fault="local files are of another changelog",
        keeps="they are rebuilt",
        edits=_without(_STORES, " and changelog != stored_changelog", " and False"),
        test=f"{_STORES_TEST}"
        "::test_a_file_that_is_not_of_this_changelog_is_rebuilt_and_one_warning_says_which_and_why",
    ),
    Protection(
        fault="a changelog is behind the committed offset",
        keeps="the worker stops before it folds, and says to which offset to go back",
        edits=_without(
            "pipeline/stream/tables.py", "        changes = {**changes, MARK_KEY: mark_of(applied_offset)}\n"
        ),
        test="tests/stream/test_damaged_state.py"
        "::test_offsets_moved_ahead_of_the_tables_stop_a_worker_and_moved_back_it_counts_exactly",
    ),
    Protection(
        fault="the database lacks a migration",
        keeps="a worker does not join",
        edits=_without(
            "pipeline/clickhouse/migrate.py",
            "if lacking := [migration.name for migration in migrations[len(recorded) :]]:",
            "if lacking := []:",
        ),
        test="tests/contracts/test_worker_start.py::test_only_a_database_with_exactly_its_own_migrations_is_taken",
    ),
    Protection(
        fault="a standby reads what a zombie wrote, and takes over later",
        keeps="the newer value is written again when it does",
        edits=_without(
            "pipeline/stream/changelog.py", "self._notes = store.notes_of(partition)", "self._notes = Notes()"
        ),
        test="tests/stream/test_standbys.py::test_an_older_value_that_a_standby_reads_is_written_over_when_it_takes_over",
    ),
    Protection(
        fault="a partition goes away while its identities are taken up in a thread",
        keeps="nothing of it is folded",
        edits=_without(
            _FOLDING,
            "        if not self._may_fold(partition, generation_id):\n            return None  # Lost meanwhile",
            "        if False:\n            return None  # Lost meanwhile",
        ),
        test=f"{_EPOCHS}::test_a_partition_that_goes_while_it_is_taken_up_is_not_folded",
    ),
    # More partitions.
    Protection(
        fault="the group's offsets are forgotten after partitions were added",
        keeps="records of the era before are not folded again",
        edits=_without(_FOLDING, "if chunk.start_offset < first_offset:", "if False:"),
        test=f"{_EPOCHS}::test_records_of_the_era_before_are_not_folded_when_the_groups_offsets_were_forgotten",
    ),
    Protection(
        fault="somebody adds partitions with Kafka's own tools",
        keeps="a worker ends before it looks for tenants where they do not live",
        edits=_without("pipeline/stream/changelog.py", "if len(set(counts.values())) > 1:", "if False:"),
        test="tests/stream/test_mends_endings.py"
        "::test_a_worker_ends_where_the_log_has_other_partitions_than_its_state",
    ),
    Protection(
        fault="a worker that was frozen while partitions were added wakes up to a rebalance",
        keeps="it ends before it changes anything of the era before",
        edits=_without(
            "pipeline/stream/recovery.py", "        self.tables.check_era(assignment.overtaken.is_set)\n"
        ),
        test="tests/stream/test_mends_endings.py"
        "::test_a_worker_ends_where_the_log_is_in_another_era_before_it_changes_anything",
    ),
    Protection(
        fault="a worker starts while partitions are being added",
        keeps="it ends and says so",
        edits=_without("pipeline/eras.py", 'if eras and eras[-1].state == "begun":', "if False:"),
        test="tests/contracts/test_eras.py::test_nobody_runs_while_a_change_is_not_finished",
    ),
    # Who looks.
    Protection(
        fault="reconcile looks while workers are ahead of what they have committed",
        keeps="what is not committed yet is never called a difference",
        edits=_without(
            "pipeline/core/log_comparison.py",
            "if row.version >= self._committed:",
            "if row.version > 10**18:",
        ),
        test="tests/core/test_reconciliation.py::test_wherever_a_worker_stands_or_dies_nothing_differs",
    ),
    Protection(
        fault="a leader has just been elected when a worker recovers, and tells an end that is too early",
        keeps="what was acknowledged behind it is read all the same",
        edits=_without("pipeline/stream/changelog.py", "if offset >= bounds[where].high:", "if True:"),
        test="tests/stream/test_changelog_ends.py"
        "::test_an_end_that_a_new_leader_tells_too_early_is_not_taken_for_the_end",
    ),
    Protection(
        fault="a leader has just moved when a worker recovers",
        keeps="it asks again instead of ending",
        edits=_without("pipeline/stream/changelog.py", "        KafkaError.FENCED_LEADER_EPOCH,\n"),
        test="tests/stream/test_passing_faults.py::test_brokers_that_die_and_leaders_that_move_are_waited_out",
    ),
)
