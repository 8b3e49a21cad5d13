"""What ``--help`` shows beside the options: the commands in groups, and examples to copy."""

from __future__ import annotations

GROUPS = {  # title → its commands
    "Train": ("init", "run", "resume", "branch", "hunt", "continue"),
    "Look": ("ui", "list", "show", "lineage", "diff"),
    "Judge": ("compare", "flips", "report", "power", "suggest", "evaluate", "audit"),
    "Use the network": ("predict", "export", "import"),
    "Take care": ("verify", "prune", "doctor", "demo"),
}

# command → (what it does, what to type); "" stands for raysweep itself
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("Train on built-in faces, or on a folder of class folders", "raysweep run base"),
        ("", "raysweep run data.path=FOLDER"),
        ("Try other class ratios from its best epoch", "raysweep branch --from base@best --weights-grid grid"),
        ("See which class they helped", "raysweep compare SWEEP"),
    ),
    "init": (("Write a configuration and a grid for a folder of class folders", "raysweep init FOLDER"),),
    "run": (
        ("Train on a folder of class folders", "raysweep run data.path=FOLDER --epochs 10"),
        ("Check everything and show the share of each class", "raysweep run base --dry-run"),
        ("Show one class five times as often", "raysweep run base --weights disgust=5"),
    ),
    "resume": (
        ("Train on from the best epoch with another weight", "raysweep resume --from base@best --weights disgust=5"),
        (
            "Train two epochs longer with another rate",
            "raysweep resume --from base@latest --epochs 2 training.learning_rate=1e-4",
        ),
    ),
    "branch": (
        ("Try the ratios of a grid file from the best epoch", "raysweep branch --from base@best --weights-grid grid"),
        ("A small grid without a file", "raysweep branch --from base@best --grid 'disgust=3,5 seeds=0,1'"),
        ("Balanced and square root, for any classes", "raysweep branch --from base@best --weights-grid rules"),
        ("Show what would be trained", "raysweep branch --from base@best --weights-grid grid --dry-run"),
    ),
    "hunt": (
        ("Look for a better model, with 60 trainings in all", "raysweep hunt --from base@best --branches 60"),
        ("Show what it would take", "raysweep hunt --from base@best --budget 2h --dry-run"),
    ),
    "continue": (
        ("Finish what was interrupted", "raysweep continue base"),
        ("Give every branch and the control two more seeds", "raysweep continue SWEEP --more-seeds 2"),
    ),
    "ui": (
        ("All experiments on a page in the browser, which follows what trains", "raysweep ui"),
        ("On another machine: only the page, without a browser there", "raysweep ui --no-browser"),
    ),
    "list": (
        ("The branches of a sweep", "raysweep list --sweep SWEEP"),
        ("The ten best", "raysweep list --sort best_macro_f1 --limit 10"),
    ),
    "show": (
        ("An experiment, a sweep, a checkpoint", "raysweep show base"),
        ("", "raysweep show SWEEP"),
        ("", "raysweep show base@best"),
        ("What training saw of 40 images", "raysweep show base --augmented 40"),
    ),
    "lineage": (("Draw the tree", "raysweep lineage --plot tree.png"),),
    "diff": (("Two epochs of one experiment", "raysweep diff base@1 base@2"),),
    "compare": (
        ("The branches of a sweep with its control", "raysweep compare SWEEP"),
        ("All columns of one class", "raysweep compare SWEEP --class disgust"),
        ("A child with its parent", "raysweep compare CHILD"),
    ),
    "flips": (
        ("The images of a class that a branch fixed and broke", "raysweep flips SWEEP disgust5 --class disgust"),
    ),
    "report": (("One HTML file that can be sent", "raysweep report SWEEP -o report.html"),),
    "power": (("What it takes to show one point", "raysweep power SWEEP --difference 1"),),
    "suggest": (("Write the next grid", "raysweep suggest SWEEP -o next.yaml"),),
    "evaluate": (("The chosen branch and the control on the test images", "raysweep evaluate SWEEP"),),
    "audit": (("Copies among the images, with thumbnails", "raysweep audit FOLDER --html audit.html"),),
    "predict": (("The classes of images", "raysweep predict base@best photo.jpg"),),
    "export": (("For other programs", "raysweep export base@best --to onnx"),),
    "import": (("Copy experiments of the old system", "raysweep import OLD_FOLDER data.path=FOLDER"),),
    "verify": (("Train an epoch again and compare the bits", "raysweep verify base --replay"),),
    "prune": (("Show what would be deleted", "raysweep prune base --last 2 --dry-run"),),
}


def examples(verb: str) -> list[str]:
    """The lines of a command's examples."""
    lines = []
    for what, typed in EXAMPLES.get(verb, ()):
        lines += [f"  {what}:"] if what else []
        lines.append(f"    {typed}")
    return lines
