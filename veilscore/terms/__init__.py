"""What parties agree on: jobs, parameters, policies, people, the federation."""
