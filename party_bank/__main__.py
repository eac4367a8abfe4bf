"""Run the node of the bank: ``python -m party_bank --home FOLDER``."""

from veilscore.node.serve import main

if __name__ == "__main__":
    main("party_bank", role="bank")
