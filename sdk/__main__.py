"""`python -m edgeloc`: the command `edgeloc`, for where scripts are not on the PATH."""

import sys

from edgeloc.cli import program

if __name__ == "__main__":
    sys.exit(program())
