"""Run the node of the court: ``python -m party_court --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.node.node import Node

if __name__ == "__main__":
    main("party_court", "holder", Node)
