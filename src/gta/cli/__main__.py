"""`python -m gta.cli`."""

import sys

from gta.cli import main

sys.exit(main())
