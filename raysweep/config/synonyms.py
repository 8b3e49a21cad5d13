"""Words of other programs for options of this one. Error messages answer with them; docs/coming_from.md shows the table."""

from __future__ import annotations

NOT_HERE = ""  # there is no such option, and the answer says so

# word, in lower case and without "_" and "-" → what to write, or NOT_HERE; and a remark
WORDS: dict[str, tuple[str, str]] = {
    "lr": ("training.learning_rate", ""),
    "learningrate": ("training.learning_rate", ""),
    "numepochs": ("training.epochs", ""),
    "maxepochs": ("training.epochs", ""),
    "nepochs": ("training.epochs", ""),
    "bs": ("training.batch_size", ""),
    "batch": ("training.batch_size", ""),
    "batchsize": ("training.batch_size", ""),
    "wd": ("training.weight_decay", ""),
    "weightdecay": ("training.weight_decay", ""),
    "optim": ("training.optimizer", ""),
    "scheduler": ("training.schedule", ""),
    "lrscheduler": ("training.schedule", ""),
    "milestones": ("training.schedule=step with training.step_epochs", "the steps are equally long"),
    "gamma": ("training.step_gamma", "of the learning rate; loss.gamma is that of the focal loss"),
    "warmup": ("training.warmup_epochs", ""),
    "patience": ("training.patience", ""),
    "earlystopping": ("training.patience", "on training.best_metric"),
    "earlystoppingpatience": ("training.patience", "on training.best_metric"),
    "kfold": ("data.folds", "in a grid file; a run takes data.folds and data.fold"),
    "nsplits": ("data.folds", "in a grid file; a run takes data.folds and data.fold"),
    "nfolds": ("data.folds", "in a grid file; a run takes data.folds and data.fold"),
    "arch": ("model.name", ""),
    "net": ("model.name", ""),
    "modelname": ("model.name", ""),
    "numworkers": ("scaling.num_workers", "processes that train; images are decoded once, and no loader needs workers"),
    "workers": ("scaling.num_workers", "processes that train; images are decoded once, and no loader needs workers"),
    "device": ("scaling.use_gpu", ""),
    "gpu": ("scaling.use_gpu", ""),
    "amp": ("training.precision=bf16", ""),
    "fp16": ("training.precision=bf16", ""),
    "mixedprecision": ("training.precision=bf16", ""),
    "dataroot": ("data.path", ""),
    "datadir": ("data.path", ""),
    "root": ("data.path", ""),
    "imgsize": ("data.image_size", ""),
    "imgsz": ("data.image_size", ""),
    "imagesize": ("data.image_size", ""),
    "inputsize": ("data.image_size", ""),
    "trainrule": (
        "sampling.weights=balanced or loss.kind=class_weights",
        "LDAM-DRW's Resample, Reweight; DRW is loss.from_epoch",
    ),
    "losstype": ("loss.kind", "CE is cross_entropy, LDAM is ldam, Focal is focal"),
    "criterion": ("loss.kind", ""),
    "clsnumlist": (NOT_HERE, "the images of each class are counted, and losses are given them"),
    "imbfactor": (
        NOT_HERE,
        "the data are used as they are; sampling.sample_per_class limits each class to the same number",
    ),
    "imbtype": (NOT_HERE, "the data are used as they are"),
    "classweights": ("loss.kind=class_weights with loss.weights", ""),
    "classweight": ("loss.kind=class_weights with loss.weights", ""),
    "sampler": ("sampling.weights", ""),
    "samplerweights": ("sampling.weights", ""),
    "imageweights": ("sampling.policy={kind: proportional}", ""),
    "taunorm": ("raysweep export", "its option --adjust moves thresholds after the training"),
    "labelsmooth": ("training.label_smoothing", ""),
    "smoothing": ("training.label_smoothing", ""),
    "clipgrad": ("training.grad_clip", ""),
    "maxgradnorm": ("training.grad_clip", ""),
    "gradientclipval": ("training.grad_clip", ""),
    "resume": ("raysweep resume", ""),
    "pretrained": ("model.pretrained=true", "with torchvision:, timm: and hf: names; your own file is model.init_from"),
    "initialcheckpoint": ("model.init_from", "as timm calls it"),
    "loadfrom": ("model.init_from", ""),
    "finetune": ("model.init_from", "or model.pretrained=true"),
    "ckptpath": ("model.init_from", "starts a new run from weights; raysweep resume continues one of raysweep"),
    "modelpath": ("model.init_from", "for weights; model.path is the folder of your code"),
    "useema": ("model.init_key", "which of two networks in a file is meant, such as model_ema"),
    "evaluate": ("raysweep evaluate", ""),
    "savedir": ("root", ""),
    "outputdir": ("root", ""),
    "normalize": ("data.mean and data.std", ""),
    "normalise": ("data.mean and data.std", ""),
    "nesterov": (NOT_HERE, "sgd has momentum without it"),
    "mixup": ("training.augment.mixup", "alpha of its Beta distribution"),
    "mixupalpha": ("training.augment.mixup", ""),
    "cutmix": ("training.augment.cutmix", "alpha of its Beta distribution"),
    "cutmixalpha": ("training.augment.cutmix", ""),
    "reprob": ("training.augment.random_erasing", "timm's random erasing"),
    "randomerase": ("training.augment.random_erasing", ""),
    "aa": ("training.augment.rand_augment or training.augment.trivial_augment", ""),
    "autoaugment": ("training.augment.rand_augment or training.augment.trivial_augment", ""),
    "randaugment": ("training.augment.rand_augment", ""),
    "randaug": ("training.augment.rand_augment", ""),
    "trivialaugment": ("training.augment.trivial_augment", ""),
    "colorjitter": ("training.augment.color_jitter", ""),
    "augrepeats": ("training.augment.repeats", ""),
    "rasampler": ("training.augment.repeats", "torchvision's repeated augmentation"),
    "hflip": ("training.augment.flip", ""),
}


def table() -> str:
    """The words as a table in Markdown."""
    rows = ["| there | here | |", "|---|---|---|"]
    rows += [
        f"| `{word}` | {f'`{here}`' if here else 'nothing'} | {remark} |" for word, (here, remark) in WORDS.items()
    ]
    return "\n".join(rows) + "\n"


def answer(word: str) -> str | None:
    """A sentence with a leading space for a word that another program has for an option; None if it is not known.

    >>> answer("lr"), answer("nesterov")
    (' Here it is training.learning_rate.', ' There is nothing for it here: sgd has momentum without it.')
    """
    found = WORDS.get(word.lower().replace("_", "").replace("-", ""))
    if found is None:
        return None
    instead, remark = found
    first = f"Here it is {instead}" if instead else "There is nothing for it here"
    return f" {first}{f': {remark}' if remark else ''}."
