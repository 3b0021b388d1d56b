"""``python -m gkd`` is ``gkd``."""

from __future__ import annotations

import sys

from gkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
