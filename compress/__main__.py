"""``python -m compress``: the same as the console script ``compress``."""

from compress.cli.main import main

if __name__ == "__main__":
    main(prog_name="compress")
