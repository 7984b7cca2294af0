"""``python -m opkernels``: the command line."""

from opkernels.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
