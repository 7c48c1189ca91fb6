"""`python -m kdbench`, where the command is not on the path."""

import sys

from kdbench.cli import main

sys.exit(main())
