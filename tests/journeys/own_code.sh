# A researcher whose project has a network in models.py and a loss in losses.py. The data have a train and a val folder.
raysweep run data.path=data model.name=python:models:Small loss=python:losses:halfway metrics.gap=python:losses:gap --epochs 3
raysweep branch --from data@best --weights-grid rules --epochs 1 --in-process
ls experiments/sweeps/data-sweep_*/report.html
head -n 1 experiments/data_*/training_history.csv | tr , '\n' | grep gap

# The network as it was trained, back in the project's own code.
raysweep export data@best --to pytorch -o small.pth
python -c "
import torch
from models import Small

network = Small(num_classes=3)
network.load_state_dict(torch.load('small.pth', weights_only=True))
print('loaded', sum(p.numel() for p in network.parameters()), 'numbers')
"
# From another folder: raysweep knows where the code is, and is told where the images are.
cd ..
raysweep resume --from data@latest --root project/experiments data.path=project/data --weights eel=3 --epochs 1 --name eels
raysweep diff data@best eels@latest --root project/experiments
