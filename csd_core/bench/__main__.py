"""python -m csd_core.bench."""

import sys

from csd_core.bench.command import main

sys.exit(main())
