"""The Python interface. Each name is imported when it is first used, so that importing this costs nothing.

>>> import raysweep
>>> config = raysweep.create_experiment_config("my_experiment", sampling_weights={"disgust": 3.0}, num_epochs=2)
>>> output_dir, best_acc = raysweep.run_experiment(config)  # doctest: +SKIP
"""

from __future__ import annotations
