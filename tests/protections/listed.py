"""Every protection against the faults that msgmeter promises to outlive, with the test that holds it."""

from tests.protections.protection import Edit, Protection

PROTECTIONS: tuple[Protection, ...] = (
    Protection(
        fault="kill -9 between two tables",
        keeps="an account in the tables proves that identities and windows have seen its records",
        edits=(
            Edit(
                "pipeline/stream/epochs.py",
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
        test="tests/stream/test_epochs.py",
    ),
)
