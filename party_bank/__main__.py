"""Run the node of the bank: ``python -m party_bank --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.sandbox.reception import open_node

if __name__ == "__main__":
    main("party_bank", "bank", open_node)
