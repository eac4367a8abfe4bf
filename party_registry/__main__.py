"""Run the node of the business registry: ``python -m party_registry --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.sandbox.reception import open_node

if __name__ == "__main__":
    main("party_registry", "holder", open_node)
