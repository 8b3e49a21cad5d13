"""``python -m raysweep``: the command line, where the ``raysweep`` script is not on the path."""

from raysweep.cli.entry import entry

entry()
