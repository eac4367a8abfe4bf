"""Run the coordinator: ``python -m coordinator --home FOLDER``."""

from veilscore.node.serve import main

if __name__ == "__main__":
    main("coordinator", role="coordinator")
