"""Variables of simulated firms by owner, of which early warnings are learned (`early_warnings.py`).

Windows end within the half-year that the earliest training rows have behind them, else a sum would grow with the
history and not with the risk. Levels are ratios against the firm's own turnover, for which its instalments stand.
"""

from __future__ import annotations

CATALOGUES = {
    "bank": """
tables:
  bookings: {source: bookings.parquet, firm: uscc, time: booked_on, known_after: 0d, numbers: [amount],
    categories: {direction: [in, out]}}
  balances: {source: balances.parquet, firm: uscc, time: month_end, known_after: 1d, numbers: [balance, overdraft_days]}
  repayments: {source: repayments.parquet, firm: uscc, time: due_on, known: paid_on, numbers: [amount, days_late],
    categories: {timely: [timely, late]}}
variables:
  - {table: bookings, of: amount, windows: [90d, 180d], aggregate: [sum, count]}
  - {table: balances, of: balance, windows: [35d, 65d, 100d, 130d, 190d], aggregate: [mean, min]}
  - {table: balances, of: overdraft_days, windows: [65d, 100d, 190d], aggregate: [mean, max]}
  - {table: repayments, of: amount, windows: [35d, 65d, 100d, 190d], aggregate: [mean]}
  - {table: repayments, where: {timely: [late]}, windows: [35d, 100d, 190d], aggregate: [count, days_since]}
  - {table: repayments, of: days_late, windows: [100d, 190d], aggregate: [sum]}
derived:
  - {name: cover_1, ratio: ["balances.balance.mean.35d", "repayments.amount.mean.65d"]}
  - {name: cover_2, ratio: ["balances.balance.mean.65d", "repayments.amount.mean.100d"]}
  - {name: cover_3, ratio: ["balances.balance.mean.100d", "repayments.amount.mean.100d"]}
  - {name: cover_4, ratio: ["balances.balance.mean.130d", "repayments.amount.mean.190d"]}
  - {name: cover_6, ratio: ["balances.balance.mean.190d", "repayments.amount.mean.190d"]}
  - {name: least_cover, ratio: ["balances.balance.min.100d", "repayments.amount.mean.100d"]}
  - {name: cover_of_bookings, ratio: ["balances.balance.mean.65d", "bookings.amount.sum.180d"]}
  - {name: turnover_1, ratio: ["repayments.amount.mean.35d", "repayments.amount.mean.190d"]}
  - {name: turnover_2, ratio: ["repayments.amount.mean.65d", "repayments.amount.mean.190d"]}
  - {name: balance_now, ratio: ["balances.balance.mean.65d", "balances.balance.mean.190d"]}
""",
    "tax": """
tables:
  filings: {source: filings.parquet, firm: uscc, time: period_end, known: filed_on, planned: [due_on],
    numbers: [declared, days_late], categories: {timely: [timely, late]}}
variables:
  - {table: filings, of: declared, windows: [65d, 190d], aggregate: [mean]}
  - {table: filings, of: days_late, windows: [190d], aggregate: [sum]}
  - {table: filings, where: {timely: [late]}, windows: [100d, 190d], aggregate: [count]}
derived:
  - {name: sales_now, ratio: ["filings.declared.mean.65d", "filings.declared.mean.190d"]}
""",
    "registry": """
tables:
  changes: {source: changes.parquet, firm: uscc, time: changed_on, known: recorded_on}
  annual_reports: {source: annual_reports.parquet, firm: uscc, time: year_end, known: filed_on,
    numbers: [revenue, profit, assets, liabilities]}
variables:
  - {table: changes, windows: [180d], aggregate: [count]}
  - {table: annual_reports, of: [revenue, profit, assets, liabilities], windows: [all], aggregate: [latest]}
derived:
  - {name: leverage, ratio: [annual_reports.liabilities.latest.all, annual_reports.assets.latest.all]}
  - {name: profit_margin, ratio: [annual_reports.profit.latest.all, annual_reports.revenue.latest.all]}
""",
    "court": """
tables:
  cases: {source: cases.parquet, firm: uscc, time: filed_on, known: published_on, categories: {role: [defendant]}}
variables:
  - {table: cases, where: {role: [defendant]}, windows: [180d], aggregate: [count]}
""",
    "bureau": """
tables:
  lines: {source: trade_lines.parquet, firm: uscc, time: reported_on, known: received_on,
    numbers: [limit_amount, balance, overdue_days]}
  enquiries: {source: enquiries.parquet, firm: uscc, time: asked_on, known: received_on}
variables:
  - {table: lines, of: [limit_amount, balance, overdue_days], windows: [125d], aggregate: [sum]}
  - {table: enquiries, windows: [90d, 180d], aggregate: [count]}
derived:
  - {name: "utilisation.{window}", windows: [125d],
     ratio: ["lines.balance.sum.{window}", "lines.limit_amount.sum.{window}"]}
""",
}
# of holders' variables, those that a model takes: noise is charged by column
TAKEN = {
    "tax": ("sales_now", "filings.count.190d[timely=late]", "filings.days_late.sum.190d"),
    "registry": ("leverage", "profit_margin", "changes.count.180d"),
    "court": ("cases.count.180d[role=defendant]",),
    "bureau": ("utilisation.125d", "enquiries.count.180d", "lines.overdue_days.sum.125d"),
}
