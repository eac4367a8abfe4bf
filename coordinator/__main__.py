"""Run the coordinator: ``python -m coordinator --home FOLDER``."""

from veilscore.serve import main

if __name__ == "__main__":
    main("coordinator", role="coordinator")
