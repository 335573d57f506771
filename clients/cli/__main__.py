"""``python -m clients.cli``: the command, where it has not been installed."""

import sys

from clients.cli.main import main

sys.exit(main())
