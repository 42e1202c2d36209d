"""The database: SQLite on one machine, PostgreSQL for several; tables beside those of DBOS."""

import sqlite3

import sqlalchemy as sa
from dbos import DBOS
from sqlalchemy import event, exc

from kinora.errors import RequestError

__all__ = ["clock", "jobs", "open_database", "workers"]

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
)


def open_database(url: str, *, patience: float) -> sa.Engine:
    """A pool of connections to a database whose tables are there, made where they weren't.

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
        DBOS.migrate(where.render_as_string(hide_password=False))
        engine = (_sqlite if kind == "sqlite" else _postgresql)(where, patience)
        with engine.begin() as c:
            if kind == "postgresql":  # two that start at a time would both create the tables
                c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("kinora"))))
            else:
                c.exec_driver_sql("BEGIN IMMEDIATE")
            metadata.create_all(c)
    except exc.DBAPIError as error:
        name = where.host or where.database
        raise RequestError(f"database {name}: can't be used ({error.orig})") from error
    return engine


def _sqlite(url: sa.URL, patience: float) -> sa.Engine:
    # What a client sent isn't for the log, not even where a statement fails.
    engine = sa.create_engine(
        url, pool_size=20, hide_parameters=True, connect_args={"timeout": patience}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:  # pyright: ignore[reportUnusedFunction]
        # As DBOS has it: what writes takes the lock first. Readers don't wait for writers.
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _postgresql(url: sa.URL, patience: float) -> sa.Engine:
    wait = f"-c lock_timeout={int(patience * 1000)}"
    return sa.create_engine(
        url,
        pool_size=20,
        hide_parameters=True,
        pool_pre_ping=True,  # the server may have been started anew
        connect_args={"options": wait, "connect_timeout": 10},
    )


def clock(engine: sa.Engine) -> sa.ColumnElement[float]:
    """The database's own clock, in seconds since 1970: machines' clocks differ."""
    if engine.dialect.name == "sqlite":
        return (sa.func.julianday("now", type_=sa.Double) - 2440587.5) * 86400.0
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
