"""The database: SQLite on one machine, PostgreSQL for several."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import event, exc

from kinora.errors import RequestError
from kinora.serve.errors import Busy

__all__ = [
    "SILENCE",
    "STALLED",
    "Database",
    "is_away",
    "jobs",
    "living",
    "open_database",
    "times",
    "workers",
]

SILENCE: Final = 5.0
"""Seconds without a beat, after which a worker counts as dead."""

STALLED: Final = 5.0
"""Seconds in the midst of a transaction without a statement, after which PostgreSQL rolls it back:
who is stopped there would lock out everybody."""

metadata = sa.MetaData()

jobs = sa.Table(
    "kinora_jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("client", sa.String(64), nullable=False),
    sa.Column("door", sa.String(16), nullable=False),
    sa.Column("model", sa.String(255), nullable=False),
    sa.Column("key", sa.String(255)),
    sa.Column("digest", sa.String(64)),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("notes", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("keep", sa.Integer, nullable=False),
    sa.Column("executor", sa.String(64)),
    sa.Column("binding", sa.String(255)),
    sa.Column("deaths", sa.Integer, nullable=False),
    sa.Column("cancelling", sa.Boolean, nullable=False),
    sa.Column("hidden", sa.Boolean, nullable=False),
    sa.Column("phase", sa.String(16)),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("seconds_left", sa.Double),
    sa.Column("previews", sa.Integer, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("client", "key"),
    sa.Index("kinora_jobs_turns", "model", "turn"),
    sa.Index("kinora_jobs_clients", "client", "turn"),
    sa.Index("kinora_jobs_states", "state", "model"),
    sa.Index("kinora_jobs_times", "client", "created", "id"),
)

workers = sa.Table(
    "kinora_workers",
    metadata,
    sa.Column("executor", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(255), nullable=False),
    sa.Column("beat", sa.Double, nullable=False),
    sa.Column("binding", sa.String(255)),
)

times = sa.Table(
    "kinora_times",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)
"""When things were last done, by the database's clock."""


class Database:
    """A pool of connections, and the ways in which they are used.

    Everything raises Busy where the database is locked, full or away.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.now = _clock(engine)
        """The database's own clock, in seconds since 1970: machines' clocks differ."""

    @contextmanager
    def begin(self) -> Generator[sa.Connection]:
        """A transaction."""
        with _reachable(), self.engine.begin() as c:
            if self.engine.dialect.name == "sqlite":  # before reading what is to be changed
                c.exec_driver_sql("BEGIN IMMEDIATE")
            yield c

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """For statements that change nothing."""
        with _reachable(), self.engine.connect() as c:
            yield c

    def lock(self, c: sa.Connection, name: str) -> None:
        """Have one transaction at a time beyond this point, as on SQLite all that write are."""
        if self.engine.dialect.name == "postgresql":
            c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))

    def close(self) -> None:
        self.engine.dispose()


def open_database(url: str, *, patience: float) -> Database:
    """A database whose tables are there, made where they weren't.

    url: "sqlite:///PATH", or "postgresql://USER:PASSWORD@HOST/NAME".
    patience: seconds for which a statement waits where another process holds a lock.
    Raises RequestError when the URL is of no database that can be used, or nothing answers there.
    """
    try:
        where = sa.make_url(url)
    except exc.ArgumentError:  # which may have a password in it
        raise RequestError(
            "database: must be a URL such as postgresql://user:password@host/name"
        ) from None
    kind = where.get_backend_name()
    kind = "postgresql" if kind == "postgres" else kind  # which others call it in URLs
    if kind not in ("sqlite", "postgresql"):
        raise RequestError(f"database {kind}: must be PostgreSQL, or left out for SQLite")
    if kind == "postgresql":
        where = where.set(drivername="postgresql+psycopg")
    try:
        database = Database((_sqlite if kind == "sqlite" else _postgresql)(where, patience))
        with database.begin() as c:
            database.lock(c, "kinora")  # two that start at a time would both create the tables
            metadata.create_all(c)
            _add_columns(c)
    except (exc.DBAPIError, Busy) as error:
        cause = error.__cause__ if isinstance(error, Busy) else error
        reason = getattr(cause, "orig", None) or cause
        name = "/".join(filter(None, (where.host, where.database)))
        raise RequestError(f"database {name}: can't be used ({reason})") from error
    return database


def living(database: Database) -> sa.ColumnElement[bool]:
    """Which rows are of workers that have beaten lately."""
    return workers.c.beat >= database.now - SILENCE


def _add_columns(c: sa.Connection) -> None:
    """Give tables of an earlier version the columns that came since; all of them may be null."""
    for table in metadata.sorted_tables:
        there = {column["name"] for column in sa.inspect(c).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(c.dialect)
                c.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))


def _sqlite(url: sa.URL, patience: float) -> sa.Engine:
    if url.database:
        with suppress(OSError):  # which opening it reports
            Path(url.database).touch(0o600)  # the files beside it get the same mode
    # What a client sent isn't for the log, not even where a statement fails.
    engine = sa.create_engine(
        url, pool_size=20, hide_parameters=True, connect_args={"timeout": patience}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:  # pyright: ignore[reportUnusedFunction]
        # What writes takes the lock first. Readers don't wait for writers.
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _postgresql(url: sa.URL, patience: float) -> sa.Engine:
    limits = {"lock_timeout": patience, "idle_in_transaction_session_timeout": STALLED}
    options = " ".join(f"-c {name}={round(seconds * 1000)}" for name, seconds in limits.items())
    return sa.create_engine(
        url,
        pool_size=20,
        hide_parameters=True,
        pool_pre_ping=True,  # the server may have been started anew
        connect_args={"options": options, "connect_timeout": 10},
    )


def _clock(engine: sa.Engine) -> sa.ColumnElement[float]:
    if engine.dialect.name == "sqlite":
        return (sa.func.julianday("now", type_=sa.Double) - 2440587.5) * 86400.0
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


def is_away(error: Exception) -> bool:
    """Whether the database was locked, full or away, or has ended the connection."""
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
        return True
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


@contextmanager
def _reachable() -> Generator[None]:
    try:
        yield
    except exc.SQLAlchemyError as error:
        if not is_away(error):
            raise
        raise Busy(
            "the database is locked, full or can't be reached. Try again in a moment"
        ) from error
