"""`python -m gunlearn` is the `gunlearn` command."""

from gunlearn.cli import main

if __name__ == "__main__":
    main()
