"""A page on this machine that shows the experiments of a root while they train. It only reads."""
