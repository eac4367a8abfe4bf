"""Run the node of the business registry: ``python -m party_registry --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.node.node import Node

if __name__ == "__main__":
    main("party_registry", "holder", Node)
