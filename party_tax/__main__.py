"""Run the node of the tax bureau: ``python -m party_tax --home FOLDER``."""

from veilscore.node.serve import main

if __name__ == "__main__":
    main("party_tax", role="holder")
