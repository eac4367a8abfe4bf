"""Run the coordinator: ``python -m coordinator --home FOLDER``."""

from coordinator.service import Coordinator
from veilscore.fabric.process import main

if __name__ == "__main__":
    main("coordinator", "coordinator", Coordinator)
