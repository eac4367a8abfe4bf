"""``python -m veilscore``: the `veilscore` command."""

from veilscore.cli import main

if __name__ == "__main__":
    main()
