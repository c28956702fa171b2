"""what the judge of a rollout has seen"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_evidence_rollout")),
        sa.PrimaryKeyConstraint("rollout", name=op.f("pk_evidence")),
    )
