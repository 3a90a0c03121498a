"""``python -m tidelock`` is the command line."""

from tidelock.cli import main

if __name__ == "__main__":
    main()
