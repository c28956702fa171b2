"""The ledger's tables. Changes go by an Alembic migration; a test compares both."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

environments = Table(
    "environments",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("live", Integer),
    Column("slot", String(8)),
    Column("holder", Integer),
    Column("fence", Integer, nullable=False, default=0),
)

slots = Table(
    "slots",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("slot", String(8), primary_key=True),
    Column("release", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("warm_until", Float),
)

releases = Table(
    "releases",
    metadata,
    Column("service", String(50), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("key", String(100), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("config", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("label", String(200), nullable=False),
    Index("ix_releases_key_number", "key", "number"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("phase", String(20), nullable=False),
    Column("state", Text, nullable=False),
    Column("by", String(200), nullable=False),
    Column("began", Float, nullable=False),
    Column("closed", Float),
    Column("receipt", Text),
    Index("ix_rollouts_key_id", "key", "id"),
    Index("ix_rollouts_phase", "phase"),
    sqlite_autoincrement=True,
)

journal = Table(
    "journal",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("text", Text, nullable=False),
    Column("phase", String(20), nullable=False),
    Column("weight", Integer),
    Column("action", String(40), nullable=False),
)

orders = Table(
    "orders",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rollout", Integer, ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("command", String(20), nullable=False),
    Column("by", String(200), nullable=False),
    Column("at", Float, nullable=False),
)

readings = Table(
    "readings",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("label", String(40), primary_key=True),
    Column("reading", Text, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True, autoincrement=False),
    Column("evidence", Text, nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False, index=True),
    Column("release", Integer, nullable=False),
    Column("rollout", Integer, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("rollout"),
)

retirements = Table(
    "retirements",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),
    Column("slot", String(8), nullable=False),
    Column("names", Text, nullable=False),
    Column("deadline", Float, nullable=False),
    UniqueConstraint("names"),
)

event_tallies = Table(
    "event_tallies",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("release", Integer, primary_key=True, autoincrement=False),
    Column("pool", String(8), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("n", Float, nullable=False),
    Column("sum", Float, nullable=False),
    Column("sum_sq", Float, nullable=False),
)

event_batches = Table(
    "event_batches",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("batch", String(200), nullable=False),
    Column("accepted", Integer, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("batch"),
    sqlite_autoincrement=True,
)
