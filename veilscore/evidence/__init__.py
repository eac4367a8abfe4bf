"""Evidence: each party's append-only log, heads that all parties sign, receipts that verify offline."""
