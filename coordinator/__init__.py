"""The coordinator: proposes jobs, orders their steps, keeps their state; sees no data of any party."""
