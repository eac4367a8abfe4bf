"""Run the node of the business registry: ``python -m party_registry --home FOLDER``."""

from veilscore.node.serve import main

if __name__ == "__main__":
    main("party_registry", role="holder")
