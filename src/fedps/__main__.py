"""`python -m fedps` is the command line."""

from fedps.cli import main

if __name__ == "__main__":
    main()
