# An engineer with photos of three kinds of animals, one folder each, and few eels. Has typed `pip install raysweep` and read
# nothing but the README.
raysweep init photos
raysweep run config.yaml --epochs 4
raysweep branch --from photos@best --weights-grid grid.yaml --epochs 1
ls experiments/sweeps/photos-sweep_*/report.html

# "And now?"
raysweep list
raysweep show photos-sweep
raysweep compare photos-sweep --class eel
raysweep flips photos-sweep balanced
raysweep power photos-sweep
raysweep suggest photos-sweep -o next.yaml
raysweep report photos-sweep -o for_my_boss.html
raysweep export photos@best --to safetensors -o animals.safetensors
raysweep predict photos@best photos/eel/0000.png photos/cat/0001.png
raysweep verify photos
raysweep prune --last 1 --dry-run
