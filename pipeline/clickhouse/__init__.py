"""ClickHouse: migrations, inserts and named queries."""
