"""`python -m camfn` is the command `camfn`."""

from .cli import main

if __name__ == "__main__":
    main()
