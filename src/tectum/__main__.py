"""`python -m tectum`, the same as `tectum`."""

import sys

from tectum.cli import main

if __name__ == "__main__":
    sys.exit(main())
