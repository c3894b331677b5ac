"""``python -m cristae``: the command line."""

from cristae.cli import main

if __name__ == "__main__":
    main()
