"""Asks DuckDB about an export: duckdb_reads.py FILE. Prints what it finds as JSON."""

import json
import sys

import duckdb

connection = duckdb.connect()
connection.execute(
    "CREATE VIEW lines AS SELECT * FROM read_json(?, format='newline_delimited', union_by_name=true, "
    "sample_size=-1)".replace("?", "'" + sys.argv[1].replace("'", "''") + "'")
)
one = lambda query: connection.execute(query).fetchone()[0]
print(
    json.dumps(
        {
            "incidents": one("SELECT count(*) FROM lines WHERE schema = 'ebusy.incident/1'"),
            "attempts": one("SELECT sum(attempts) FROM lines WHERE schema = 'ebusy.incident/1'"),
            "refused": one("SELECT count(*) FROM lines WHERE type = 'umount' AND result = -16"),
            "holder": one(
                "SELECT holder.process.comm FROM (SELECT unnest(holders) AS holder FROM lines "
                "WHERE schema = 'ebusy.incident/1') ORDER BY holder.attempts_blocked DESC LIMIT 1"
            ),
            "took": one(
                "SELECT round(extract(epoch FROM (ended::TIMESTAMPTZ - started::TIMESTAMPTZ)), 2)::DOUBLE FROM lines "
                "WHERE schema = 'ebusy.incident/1' LIMIT 1"
            ),
        }
    )
)
