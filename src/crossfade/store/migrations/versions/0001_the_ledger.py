"""the ledger"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("live", sa.Integer(), nullable=True),
        sa.Column("slot", sa.String(length=8), nullable=True),
        sa.Column("holder", sa.Integer(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_environments")),
    )
    op.create_table(
        "promotions",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_promotions")),
        sa.UniqueConstraint("rollout", name=op.f("uq_promotions_rollout")),
    )
    with op.batch_alter_table("promotions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_promotions_key"), ["key"], unique=False)

    op.create_table(
        "releases",
        sa.Column("service", sa.String(length=50), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("service", "number", name=op.f("pk_releases")),
    )
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.create_index("ix_releases_key_number", ["key", "number"], unique=False)

    op.create_table(
        "retirements",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("slot", sa.String(length=8), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("deadline", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retirements")),
        sa.UniqueConstraint("names", name=op.f("uq_retirements_names")),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(length=20), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("began", sa.Float(), nullable=False),
        sa.Column("closed", sa.Float(), nullable=True),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.create_index("ix_rollouts_key_id", ["key", "id"], unique=False)
        batch_op.create_index("ix_rollouts_phase", ["phase"], unique=False)

    op.create_table(
        "slots",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("slot", sa.String(length=8), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("warm_until", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("key", "slot", name=op.f("pk_slots")),
    )
    op.create_table(
        "journal",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("phase", sa.String(length=20), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_journal_rollout")),
        sa.PrimaryKeyConstraint("rollout", "seq", name=op.f("pk_journal")),
    )
    op.create_table(
        "orders",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("command", sa.String(length=20), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_orders_rollout")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_orders")),
    )
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_orders_rollout"), ["rollout"], unique=False)

    op.create_table(
        "readings",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=40), nullable=False),
        sa.Column("reading", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_readings_rollout")),
        sa.PrimaryKeyConstraint("rollout", "label", name=op.f("pk_readings")),
    )
