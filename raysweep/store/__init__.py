"""The experiment's folder: names, atomic files, checkpoints, lineage, index. Reading it needs neither torch nor ray."""
