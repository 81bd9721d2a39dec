"""`python -m rpcsim` is the command `rpcsim`."""

from rpcsim.cli import main

if __name__ == "__main__":
    main()
