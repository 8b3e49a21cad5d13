# Somebody with experiments of the old system in old/, and the images that they were trained on.
raysweep list --root old
raysweep import old/old_base_20250108_143022 data.path=images
raysweep branch --from old_base@3 --weights-grid rules --epochs 1 --in-process
ls experiments/sweeps/old_base-sweep_*/report.html

raysweep show old_base
raysweep lineage
raysweep compare old_base-sweep
# As before, with the words of the old program; the old folder stays as it is.
raysweep resume-experiment --list
raysweep resume-experiment --checkpoint old/old_base_20250108_143022/checkpoint_epoch_2.pt --name again --epochs 1 --weights '{"eel": 4.0}' data.path=images
raysweep list
