"""`python -m neuroscope.cli` is the command `neuroscope`."""

from neuroscope.cli import main

if __name__ == "__main__":
    main()
