"""Run the node of the tax bureau: ``python -m party_tax --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.node.node import Node

if __name__ == "__main__":
    main("party_tax", "holder", Node)
