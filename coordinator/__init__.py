"""The coordinator proposes jobs, orders their steps and keeps their state; it sees no data of any party."""
