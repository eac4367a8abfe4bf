"""Run the node of the court: ``python -m party_court --home FOLDER``."""

from veilscore.fabric.process import main
from veilscore.sandbox.reception import open_node

if __name__ == "__main__":
    main("party_court", "holder", open_node)
