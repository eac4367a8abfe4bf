"""One file a task: its parameters, its steps, and what each step reads, costs and tells."""
