"""``python -m raysweep``: the command line, where the ``raysweep`` script is not on the path."""

import os
import sys

# Python searches the working directory first, where files of the user's project could hide libraries of other names.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()] and not os.path.isdir("raysweep"):
    del sys.path[0]

from raysweep.cli.entry import entry

entry()
