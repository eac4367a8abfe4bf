"""The first version of the book: its tables, and triggers that keep its history as it was written."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_POSTGRES = (
    """CREATE FUNCTION history_is_kept() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the history of a book is never changed'; END $$""",
    """CREATE TRIGGER history_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON history
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept()""",
)
_SQLITE = tuple(
    f"""CREATE TRIGGER history_is_kept_at_{event} BEFORE {event} ON history
    BEGIN SELECT RAISE(ABORT, 'the history of a book is never changed'); END"""
    for event in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("product", sa.String(length=80), nullable=False),
        sa.Column("decision", sa.String(length=80), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("basis", sa.String(length=2000), nullable=False),
        sa.Column("valid_days", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "firms",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("industry", sa.String(length=80), nullable=False),
        sa.Column("region", sa.String(length=80), nullable=False),
        sa.Column("manager", sa.String(length=80), nullable=False),
        sa.Column("since_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("firm"),
    )
    op.create_table(
        "history",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=20), nullable=False),
        sa.Column("subject", sa.String(length=20), nullable=False),
        sa.Column("subject_id", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_history_firm"), "history", ["firm"], unique=False)
    op.create_table(
        "work",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("task", sa.String(length=40), nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("due_on", sa.Date(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("worker", sa.String(length=80), nullable=False),
        sa.Column("lease_s", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("result", sa.String(length=400), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task", "firm", "due_on"),
    )
    op.create_index(op.f("ix_work_status"), "work", ["status"], unique=False)
    op.create_table(
        "consents",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("document", sa.String(length=64), nullable=False),
        sa.Column("issuer", sa.String(length=80), nullable=False),
        sa.Column("purpose", sa.String(length=60), nullable=False),
        sa.Column("holders", sa.JSON(), nullable=False),
        sa.Column("not_before_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
        sa.Column("revoked_s", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("document", "firm"),
    )
    op.create_index(op.f("ix_consents_firm"), "consents", ["firm"], unique=False)
    op.create_table(
        "lines",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("product", sa.String(length=80), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=400), nullable=False),
        sa.Column("opened_s", sa.Double(), nullable=False),
        sa.Column("changed_s", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "state IN ('prospect', 'offered', 'applied', 'approved', 'drawn', 'watched', 'renewed', 'closed')",
            name="known_state",
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_lines_firm"), "lines", ["firm"], unique=False)
    op.create_index(op.f("ix_lines_state"), "lines", ["state"], unique=False)
    op.create_index(
        "one_open_line",
        "lines",
        ["firm", "product"],
        unique=True,
        sqlite_where=sa.text("state != 'closed'"),
        postgresql_where=sa.text("state != 'closed'"),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("path", sa.String(length=400), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("as_of", sa.Date(), nullable=False),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_reports_firm"), "reports", ["firm"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("reference", sa.String(length=160), nullable=False),
        sa.Column("model", sa.String(length=80), nullable=False),
        sa.Column("model_sha256", sa.String(length=64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("measure", sa.String(length=80), nullable=False),
        sa.Column("holders", sa.JSON(), nullable=False),
        sa.Column("bits", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("policy", sa.String(length=80), nullable=False),
        sa.Column("policy_sha256", sa.String(length=64), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("policy_row", sa.String(length=200), nullable=False),
        sa.Column("decided_by", sa.String(length=80), nullable=False),
        sa.Column("consent", sa.Integer(), nullable=True),
        sa.Column("decided_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consent"],
            ["consents.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.ForeignKeyConstraint(
            ["line"],
            ["lines.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("firm", "kind", "reference"),
    )
    op.create_index(op.f("ix_decisions_firm"), "decisions", ["firm"], unique=False)
    op.create_table(
        "alarms",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("decision", sa.Integer(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("next_step", sa.String(length=400), nullable=False),
        sa.Column("feedback", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["decision"],
            ["decisions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.ForeignKeyConstraint(
            ["line"],
            ["lines.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("decision"),
        sa.UniqueConstraint("line", "month"),
    )
    op.create_index(op.f("ix_alarms_firm"), "alarms", ["firm"], unique=False)
    op.create_table(
        "offers",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("campaign", sa.Integer(), nullable=False),
        sa.Column("decision", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("valid_until", sa.Date(), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("contacted_s", sa.Double(), nullable=True),
        sa.Column("scanned_s", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["campaign"],
            ["campaigns.id"],
        ),
        sa.ForeignKeyConstraint(
            ["decision"],
            ["decisions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.ForeignKeyConstraint(
            ["line"],
            ["lines.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("campaign", "firm"),
        sa.UniqueConstraint("decision"),
        sa.UniqueConstraint("line"),
        sa.UniqueConstraint("number"),
        sa.UniqueConstraint("secret_sha256"),
    )
    op.create_index(op.f("ix_offers_firm"), "offers", ["firm"], unique=False)
    op.create_index(op.f("ix_offers_valid_until"), "offers", ["valid_until"], unique=False)
    op.create_table(
        "renewals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("contract", sa.Integer(), nullable=False),
        sa.Column("decision", sa.Integer(), nullable=True),
        sa.Column("due_on", sa.Date(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("months", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["decision"],
            ["decisions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.ForeignKeyConstraint(
            ["line"],
            ["lines.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("contract"),
    )
    op.create_index(op.f("ix_renewals_due_on"), "renewals", ["due_on"], unique=False)
    op.create_index(op.f("ix_renewals_firm"), "renewals", ["firm"], unique=False)
    op.create_table(
        "applications",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("offer", sa.Integer(), nullable=True),
        sa.Column("decision", sa.Integer(), nullable=True),
        sa.Column("request", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("months", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("received_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["decision"],
            ["decisions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.ForeignKeyConstraint(
            ["line"],
            ["lines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["offer"],
            ["offers.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("line"),
        sa.UniqueConstraint("offer"),
        sa.UniqueConstraint("request"),
    )
    op.create_index(op.f("ix_applications_firm"), "applications", ["firm"], unique=False)
    op.create_table(
        "contracts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("product", sa.String(length=80), nullable=False),
        sa.Column("number", sa.String(length=20), nullable=False),
        sa.Column("application", sa.Integer(), nullable=True),
        sa.Column("renewal", sa.Integer(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("rate_bp", sa.Integer(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["application"],
            ["applications.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.ForeignKeyConstraint(
            ["line"],
            ["lines.id"],
        ),
        sa.ForeignKeyConstraint(
            ["renewal"],
            ["renewals.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("application"),
        sa.UniqueConstraint("number"),
        sa.UniqueConstraint("renewal"),
    )
    op.create_index(op.f("ix_contracts_ends_on"), "contracts", ["ends_on"], unique=False)
    op.create_index(op.f("ix_contracts_firm"), "contracts", ["firm"], unique=False)
    op.create_table(
        "draws",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("contract", sa.Integer(), nullable=False),
        sa.Column("request", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("drawn_on", sa.Date(), nullable=False),
        sa.CheckConstraint("amount > 0", name="positive_draw"),
        sa.ForeignKeyConstraint(
            ["contract"],
            ["contracts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request"),
    )
    op.create_index(op.f("ix_draws_contract"), "draws", ["contract"], unique=False)
    op.create_index(op.f("ix_draws_firm"), "draws", ["firm"], unique=False)
    op.create_table(
        "repayments",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("firm", sa.String(length=64), nullable=False),
        sa.Column("contract", sa.Integer(), nullable=False),
        sa.Column("request", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("paid_on", sa.Date(), nullable=False),
        sa.CheckConstraint("amount > 0", name="positive_repayment"),
        sa.ForeignKeyConstraint(
            ["contract"],
            ["contracts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["firm"],
            ["firms.firm"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request"),
    )
    op.create_index(op.f("ix_repayments_contract"), "repayments", ["contract"], unique=False)
    op.create_index(op.f("ix_repayments_firm"), "repayments", ["firm"], unique=False)
    for statement in _POSTGRES if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)
