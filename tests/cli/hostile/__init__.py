"""Hostile input by kind (pickles, files, texts), and the process that tries it; see :mod:`tests.cli.test_hostile`."""
