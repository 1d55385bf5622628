"""What a phone keeps: settings, and one database an app. Files are a plain dictionary of path to bytes."""

from __future__ import annotations

import sqlite3
from typing import Any

Row = dict[str, Any]
Change = tuple[str, int, Row | None, Row | None]
"""Table, _id, the row before and after; None where there was or is none."""

SETTINGS = {
    "global": {
        "airplane_mode_on": "0", "bluetooth_on": "0", "mobile_data": "1", "wifi_on": "1", "zen_mode": "0",
        "auto_time": "1", "window_animation_scale": "1",
    },
    "system": {
        "accelerometer_rotation": "0", "font_scale": "1.0", "pointer_location": "0", "screen_brightness": "128",
        "screen_off_timeout": "60000", "show_touches": "0", "time_12_24": "24", "vibrate_when_ringing": "1",
        "volume_music": "5",
    },
    "secure": {"location_mode": "3", "ui_night_mode": "1", "default_input_method": "palaestra/.Keyboard"},
}  # fmt: skip
"""Android's settings at first start: namespace, key, value. `ui_night_mode` is 1 for light and 2 for dark."""


def rows_of(table: dict[int, Row], **wanted: Any) -> list[Row]:
    """Return the rows whose columns have the wanted values, in the order of their ids."""
    return [row for row in table.values() if all(row[key] == value for key, value in wanted.items())]


class Database:
    """An app's tables: dictionaries of _id to row, which become real SQLite where somebody asks in SQL."""

    def __init__(self, schema: dict[str, str], key: str = "_id") -> None:
        """Take the tables' columns as in SQL, such as {"alarms": "hour INTEGER, label TEXT DEFAULT ''"}.

        The id of a row is added: "_id" in Python, `key` in SQL.
        """
        self.schema = schema
        self.key = key
        self.defaults = {name: _defaults(columns) for name, columns in schema.items()}
        self.tables: dict[str, dict[int, Row]] = {name: {} for name in schema}
        self._start: dict[str, dict[int, Row]] = {name: {} for name in schema}

    def __getitem__(self, table: str) -> dict[int, Row]:
        return self.tables[table]

    def insert(self, table: str, /, **values: Any) -> int:
        """Add a row, other columns at their defaults, and return its _id, the largest so far plus one."""
        number = max(self.tables[table], default=0) + 1
        self.tables[table][number] = {"_id": number, **self.defaults[table], **values}
        return number

    def update(self, table: str, number: int, /, **values: Any) -> None:
        """Change columns of a row; a row that is gone stays gone."""
        if number in self.tables[table]:
            self.tables[table][number].update(values)

    def delete(self, table: str, number: int) -> None:
        """Remove a row, if there is one."""
        self.tables[table].pop(number, None)

    def settle(self) -> None:
        """Take what is there now for what `changes` compares with."""
        self._start = {name: {key: dict(row) for key, row in rows.items()} for name, rows in self.tables.items()}

    def changes(self) -> list[Change]:
        """Return the rows that differ from those at the last `settle`."""
        found: list[Change] = []
        for name, rows in self.tables.items():
            before = self._start[name]
            if rows != before:
                for key in sorted(rows.keys() | before.keys()):
                    if rows.get(key) != before.get(key):
                        found.append((name, key, before.get(key), rows.get(key)))
        return found

    def connect(self) -> sqlite3.Connection:
        """Return the tables as an SQLite database in memory."""
        connection = sqlite3.connect(":memory:")
        for name, columns in self.schema.items():
            connection.execute(f"CREATE TABLE {name} ({self.key} INTEGER PRIMARY KEY AUTOINCREMENT, {columns})")
            names = ["_id", *self.defaults[name]]
            marks = ", ".join("?" * len(names))
            values = [[row[column] for column in names] for row in self.tables[name].values()]
            known = ", ".join([self.key, *names[1:]])
            connection.executemany(f"INSERT INTO {name} ({known}) VALUES ({marks})", values)
        connection.commit()
        return connection

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run SQL on the tables and return the rows of its answer.

        Raises:
            sqlite3.Error: For SQL that SQLite refuses.
        """
        connection = self.connect()
        connection.set_authorizer(_inside)
        steps = 0

        def too_long() -> int:
            nonlocal steps
            steps += 1
            return int(steps > 1000)

        connection.set_progress_handler(too_long, 10_000)
        before = connection.total_changes
        answer = connection.execute(sql).fetchall()
        if connection.total_changes != before:
            self.take(connection)
        connection.close()
        return answer

    def take(self, connection: sqlite3.Connection) -> None:
        """Take all tables from an SQLite database; where one is missing, nothing changes.

        Raises:
            sqlite3.Error: Where a table or a column is missing.
        """
        tables = {}
        for name, columns in self.defaults.items():
            rows = connection.execute(f"SELECT {', '.join([self.key, *columns])} FROM {name} ORDER BY 1").fetchall()
            tables[name] = {int(row[0]): dict(zip(["_id", *columns], row, strict=True)) for row in rows}
        self.tables = tables

    def file(self) -> bytes:
        """Return the tables as the bytes of an SQLite file."""
        connection = self.connect()
        data = connection.serialize()
        connection.close()
        return data


def _defaults(columns: str) -> Row:
    """Return what stands in the columns of a new row: their default, else 0 or an empty text by their kind."""
    found: Row = {}
    for column in columns.split(", "):
        name, kind, *more = column.split(" ")
        value = more[1].strip("'") if more[:1] == ["DEFAULT"] else ""
        found[name] = int(value or 0) if kind == "INTEGER" else value
    return found


def _inside(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    """Keep SQL in the phone: no other database is attached, no file is read."""
    refused = action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK
