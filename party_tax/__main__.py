"""Run the node of the tax bureau: ``python -m party_tax --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.sandbox.reception import open_node

if __name__ == "__main__":
    main("party_tax", "holder", open_node)
