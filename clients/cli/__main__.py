"""``python -m clients.cli``: the command, where it has not been installed."""

import sys

from clients.cli.entry import main

sys.exit(main())
