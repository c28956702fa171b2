"""The ledger's tables. Changes go by an Alembic migration; a test compares both."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

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

feed = Table(
    "feed",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("key", String(100), nullable=False),
    Column("rollout", Integer),
    Column("data", Text, nullable=False),
    sqlite_autoincrement=True,
)

answers = Table(
    "answers",
    metadata,
    Column("actor", String(120), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("status", Integer),
    Column("body", Text),
    Column("at", Float, nullable=False),
    Index("ix_answers_at", "at"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("password", String(200), nullable=False),
    Column("issuer", String(200), nullable=False),
    Column("grants", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("disabled", Boolean, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("owner", String(100), nullable=False),
    Column("hash", String(200), nullable=False),
    Column("grants", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
    Column("used", Float),
    Index("ix_tokens_owner", "owner"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("grants", Text),
    Column("csrf", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Index("ix_sessions_name", "name"),
)

links = Table(
    "links",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("grants", Text, nullable=False),
    Column("expires", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("via", String(20), nullable=False),
    Column("address", String(100), nullable=False),
    Column("what", String(60), nullable=False),
    Column("key", String(200), nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_key_seq", "key", "seq"),
    sqlite_autoincrement=True,
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),
    Column("release", Integer, nullable=False),
    Column("role", String(20), nullable=False),
    Column("by", String(200), nullable=False),
    Column("identity", String(100), nullable=False),
    Column("asked", Float, nullable=False),
    Column("state", String(20), nullable=False),
    Column("decided_by", String(200)),
    Column("decided", Float),
    Column("why", String(500), nullable=False),
    Column("rollout", Integer),
    Index("ix_approvals_key_state", "key", "state"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("service", String(50), nullable=False),
    Column("commit", String(64), nullable=False),
    Column("plan", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Index("ix_runs_service_id", "service", "id"),
    Index("ix_runs_status", "status"),
    Index("ix_runs_service_commit", "service", "commit"),
    sqlite_autoincrement=True,
)

run_releases = Table(
    "run_releases",
    metadata,
    Column("service", String(50), primary_key=True),
    Column("release", Integer, primary_key=True, autoincrement=False),
    Column("run", Integer, ForeignKey("runs.id"), nullable=False),
)

sources = Table(
    "sources",
    metadata,
    Column("service", String(50), primary_key=True),
    Column("source", Text, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("service", String(50), nullable=False),
    Column("delivery", String(200), nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("service", "delivery"),
    sqlite_autoincrement=True,
)

statements = Table(
    "statements",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("envelope", Text, nullable=False),
    Column("run", Integer),
    Column("at", Float, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("run", Integer, ForeignKey("runs.id"), primary_key=True, autoincrement=False),
    Column("stage", String(20), primary_key=True),
    Column("path", String(500), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

flag_versions = Table(
    "flag_versions",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("document", LargeBinary, nullable=False),
    Column("by", String(200), nullable=False),
    Column("at", Float, nullable=False),
    Column("note", String(500), nullable=False),
    Column("flags", Text, nullable=False),
)

flag_settings = Table(
    "flag_settings",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("approval", String(20)),
)

flag_requests = Table(
    "flag_requests",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),
    Column("what", String(60), nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("role", String(20), nullable=False),
    Column("by", String(200), nullable=False),
    Column("identity", String(100), nullable=False),
    Column("asked", Float, nullable=False),
    Column("note", String(500), nullable=False),
    Column("state", String(20), nullable=False),
    Column("decided_by", String(200)),
    Column("decided", Float),
    Column("why", String(500), nullable=False),
    Column("applied", Integer),
    Index("ix_flag_requests_key_state", "key", "state"),
    sqlite_autoincrement=True,
)

ramps = Table(
    "ramps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),
    Column("flag", String(200), nullable=False),
    Column("state", Text, nullable=False),
    Column("evidence", Text),
    Column("began", Float, nullable=False),
    Column("ended", Float),
    Index("ix_ramps_key_flag", "key", "flag"),
    Index("ix_ramps_ended", "ended"),
    sqlite_autoincrement=True,
)

records = Table(
    "records",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("key", String(100), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("data", Text, nullable=False),
    Column("began", Float, nullable=False),
    Column("ended", Float),
    Index("ix_records_kind_key", "kind", "key", "subject"),
    Index("ix_records_kind_ended", "kind", "ended"),
    sqlite_autoincrement=True,
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),
    Column("name", String(100), nullable=False),
    Column("flag", String(200), nullable=False),
    Column("state", Text, nullable=False),
    Column("events", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("until", Float),
    Column("units", Integer, nullable=False),
    Column("outcomes", Integer, nullable=False),
    Column("left_out", Integer, nullable=False),
    UniqueConstraint("key", "name"),
    sqlite_autoincrement=True,
)

experiment_units = Table(
    "experiment_units",
    metadata,
    Column("experiment", Integer, ForeignKey("experiments.id"), primary_key=True, autoincrement=False),
    Column("unit", LargeBinary, primary_key=True),
    Column("variant", String(200), nullable=False),
    Column("at", Float, nullable=False),
    Column("release", Integer),
    Column("slot", String(8), nullable=False),
    Column("attributes", Text, nullable=False),
    Column("other", String(200), nullable=False),
    Column("crossed", Float),
)

experiment_outcomes = Table(
    "experiment_outcomes",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("experiment", Integer, ForeignKey("experiments.id"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("unit", LargeBinary, nullable=False),
    Column("value", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("release", Integer),
    Column("slot", String(8), nullable=False),
)

flag_batches = Table(
    "flag_batches",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("batch", String(200), nullable=False),
    Column("taken", Text, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("batch"),
    sqlite_autoincrement=True,
)

flag_usage = Table(
    "flag_usage",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("flag", String(200), primary_key=True),
    Column("variant", String(200), primary_key=True),
    Column("release", Integer, primary_key=True, autoincrement=False),
    Column("n", Integer, nullable=False),
    Column("first", Float, nullable=False),
    Column("last", Float, nullable=False),
)
