"""flags by versions, change requests, ramps, experiments and what was seen of them"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "flag_versions",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", "number", name=op.f("pk_flag_versions")),
    )
    op.create_table(
        "flag_settings",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("approval", sa.String(length=20), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_flag_settings")),
    )
    op.create_table(
        "flag_requests",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("what", sa.String(length=60), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("identity", sa.String(length=100), nullable=False),
        sa.Column("asked", sa.Float(), nullable=False),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("decided_by", sa.String(length=200), nullable=True),
        sa.Column("decided", sa.Float(), nullable=True),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.Column("applied", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flag_requests")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_flag_requests_key_state", "flag_requests", ["key", "state"], unique=False)
    op.create_table(
        "ramps",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("flag", sa.String(length=200), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("began", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ramps")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ramps_key_flag", "ramps", ["key", "flag"], unique=False)
    op.create_index("ix_ramps_ended", "ramps", ["ended"], unique=False)
    op.create_table(
        "experiments",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("flag", sa.String(length=200), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("started", sa.Float(), nullable=True),
        sa.Column("ended", sa.Float(), nullable=True),
        sa.Column("until", sa.Float(), nullable=True),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("outcomes", sa.Integer(), nullable=False),
        sa.Column("left_out", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("key", "name", name=op.f("uq_experiments_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "experiment_units",
        sa.Column("experiment", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit", sa.LargeBinary(), nullable=False),
        sa.Column("variant", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.Column("slot", sa.String(length=8), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("other", sa.String(length=200), nullable=False),
        sa.Column("crossed", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["experiment"], ["experiments.id"], name=op.f("fk_experiment_units_experiment")),
        sa.PrimaryKeyConstraint("experiment", "unit", name=op.f("pk_experiment_units")),
    )
    op.create_table(
        "experiment_outcomes",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("unit", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.Column("slot", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiments.id"], name=op.f("fk_experiment_outcomes_experiment")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_experiment_outcomes")),
    )
    op.create_index(op.f("ix_experiment_outcomes_experiment"), "experiment_outcomes", ["experiment"], unique=False)
    op.create_table(
        "flag_batches",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("batch", sa.String(length=200), nullable=False),
        sa.Column("taken", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_flag_batches")),
        sa.UniqueConstraint("batch", name=op.f("uq_flag_batches_batch")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "flag_usage",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("flag", sa.String(length=200), nullable=False),
        sa.Column("variant", sa.String(length=200), nullable=False),
        sa.Column("release", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("first", sa.Float(), nullable=False),
        sa.Column("last", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", "flag", "variant", "release", name=op.f("pk_flag_usage")),
    )


def downgrade() -> None:
    for table in (
        "flag_usage",
        "flag_batches",
        "experiment_outcomes",
        "experiment_units",
        "experiments",
        "ramps",
        "flag_requests",
        "flag_settings",
        "flag_versions",
    ):
        op.drop_table(table)
