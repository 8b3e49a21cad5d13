"""The derived files of an experiment: ``classification_report.txt``, the confusion matrix and the training curves."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raysweep._text import counted
from raysweep.label_sets import MAP
from raysweep.report import fonts
from raysweep.report.classification import classification_report, of_labels
from raysweep.report.findings import binary
from raysweep.report.fonts import Labels, labels, safe_label
from raysweep.report.history import History, epochs_of, read_history
from raysweep.report.predictions import Predictions, read
from raysweep.store import files, layout
from raysweep.store.experiment import Experiment

# Okabe & Ito's colours, distinguishable with every kind of colour vision (https://jfly.uni-koeln.de/color/)
_SOURCE, _PIXELS = "raysweep-source", "raysweep-pixels"  # texts in a picture
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def write_all(experiment: Experiment) -> None:
    """Write every derived file of an experiment that has at least one finished epoch."""
    found = read(experiment)
    files.write_atomic(experiment.folder / layout.REPORT, report(found, experiment.id))
    files.write_atomic(experiment.folder / layout.CONFUSION, confusion_png(found, experiment.id))
    files.write_atomic(experiment.folder / layout.HISTORY_PNG, history_png(experiment))


def report(found: Predictions, experiment_id: str) -> bytes:
    """scikit-learn's table of an epoch, as the old system wrote it, with the epoch's number below it."""
    if found.several:
        text = of_labels(found.labels, found.predicted, found.probabilities, found.classes)
    else:
        text = classification_report(found.matrix, found.classes)
    text += f"\nEpoch {found.epoch} of {experiment_id}, {counted(len(found.labels), 'validation image')}.\n"
    return text.encode()


def new_figure(width: float, height: float) -> Any:
    """A figure without pyplot and its global state, so that threads and workers may draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any, source: str = "") -> bytes:
    """The figure as PNG. It is drawn once, while ``savefig`` would draw everything twice.

    Args:
        source: the hash of what it shows; see :func:`drawn_from`.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    fonts.choose(figure)
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    facts = PngInfo()
    if source:
        facts.add_text(_SOURCE, source)
        facts.add_text(_PIXELS, _hash_of(image))
    out = io.BytesIO()
    image.save(out, "png", compress_level=3, pnginfo=facts)
    return out.getvalue()


def drawn_from(picture: bytes) -> tuple[str, str | None]:
    """(hash of the pixels, the hash of what the picture shows), as far as they are its own. Another version of matplotlib draws
    other pixels, so a picture cannot be checked by drawing it again; it says itself what it was drawn from.

    Returns:
        The second is None in a picture that does not say it, and empty if its pixels were changed since.

    Raises:
        OSError, ValueError: it is no picture.
    """
    from PIL import Image

    with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
        pixels = _hash_of(image.convert("RGB"))
        told = {key: str(value) for key, value in image.info.items() if key in (_SOURCE, _PIXELS)}
    if _SOURCE not in told:
        return pixels, None
    return pixels, told[_SOURCE] if told.get(_PIXELS) == pixels else ""


def _hash_of(image: Any) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def accuracy_colours(low: float, high: float) -> Callable[[float], Any]:
    """A function from accuracy to colour, readable with every kind of colour vision and in grey."""
    import matplotlib
    from matplotlib.colors import Normalize

    scale = Normalize(low, high if high > low else low + 1e-9)
    colours = matplotlib.colormaps["viridis_r"]
    return lambda value: colours(float(scale(value)))


def accuracy_bar(figure: Any, axes: Any, low: float, high: float) -> None:
    """Add the colour bar of :func:`accuracy_colours` to a figure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if high > low:
        bar = figure.colorbar(ScalarMappable(Normalize(low, high), "viridis_r"), ax=axes, shrink=0.6, aspect=14)
        digits = 0 if high - low > 0.08 else 1
        bar.ax.yaxis.set_major_formatter(lambda v, _: f"{v:.{digits}%}")
        bar.set_label("best accuracy")


MOST_CLASSES = 30  # rows of a confusion matrix
MOST_CURVES = 16  # classes with a curve


def confusion_png(found: Predictions, title: str) -> bytes:
    """The confusion matrix of an epoch, as :func:`matrix_png`."""
    of = f"epoch {found.epoch}"
    if found.several:
        there = binary.together(found.labels, found.labels)
        return together_png(found.matrix, there, found.classes, title, of, len(found.labels), found.sha256)
    accuracy = found.accuracy if len(found.labels) else 0.0
    return matrix_png(found.matrix, found.classes, accuracy, title, of, found.sha256)


def matrix_png(
    whole: np.ndarray,
    classes: Sequence[str],
    accuracy: float,
    title: str,
    of: str,
    source: str = "",
    what: str = "image",
) -> bytes:
    """A confusion matrix. Rows are true classes and sum to 100 %; each cell shows its share and its count. Of more than
    MOST_CLASSES, those with the most mistakes are shown, and all others together.

    Args:
        whole: int (K, K).
        of: what it is the matrix of; the second line of the title begins with it.
        source: the hash of what is shown; see :func:`drawn_from`.
        what: is counted.
    """
    matrix, names, more = _most_confused(whole, classes)
    rows, columns = matrix.shape
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    side, figure, axes, bar = _table(shares, names, matrix.sum(1))
    texts = {(i, j): f"{shares[i, j]:.0%}\n{matrix[i, j]:,}" for i, j in np.argwhere(matrix).tolist()}
    _write_cells(axes, texts, shares, size=9 if columns <= 12 else 6)
    axes.set_xlabel("\n".join(filter(None, ["predicted", names.legend])))
    axes.set_ylabel("true (images)")
    shown = f"\nthe {rows} classes with the most mistakes; {more:,} more are not shown" if more else ""
    axes.set_title(
        f"{safe_label(title, int(side * 9))}\n{of}: accuracy {accuracy:.1%} of {counted(int(whole.sum()), what)}{shown}",
        fontsize=11,
    )
    bar.set_label("share of the true class")
    return png(figure, source)


def _table(shares: np.ndarray, names: Labels, images: np.ndarray) -> tuple[float, Any, Any, Any]:
    """(its size, the figure, the axes, the bar of colours) of a table of shares, int (rows,) images in each row."""
    rows, columns = shares.shape
    side = min(24.0, max(5.0, 1.6 + 0.78 * columns))
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(
        range(columns), [*names.texts, "all others"][:columns], rotation=40, ha="right", rotation_mode="anchor"
    )
    sums = [f"{int(t):,}" if t else "no images" for t in images]
    axes.set_yticks(range(rows), [f"{n}  ({t})" for n, t in zip(names.texts, sums, strict=True)])
    return side, figure, axes, figure.colorbar(image, ax=axes, shrink=0.8, format=lambda v, _: f"{v:.0%}")


def together_png(
    predicted: np.ndarray,
    there: np.ndarray,
    classes: Sequence[str],
    title: str,
    of: str,
    images: int,
    source: str = "",
    what: str = "image",
) -> bytes:
    """Which labels are predicted together, of several for an image: a row for the images with a label, a column for each label, with the
    share of them on which it is predicted and, below, that truly has it. Of more than MOST_CLASSES labels the most wrong are shown.

    Args:
        predicted, there: int (K, K), see :func:`binary.together`; the diagonal of ``there`` has the images with each label.
        images: in all. The others are those of :func:`matrix_png`.
    """
    every, shown = labels(classes), np.arange(len(classes))
    if len(classes) > MOST_CLASSES:
        shown = np.sort(np.argsort(-np.abs(predicted - there).sum(1), kind="stable")[:MOST_CLASSES])
    counts = there.diagonal()[shown]
    under = np.maximum(1, counts)[:, None]
    shares, true = (table[np.ix_(shown, shown)] / under for table in (predicted, there))
    side, figure, axes, bar = _table(shares, Labels([every.texts[i] for i in shown], every.legend), counts)
    cells = [(i, j) for i in np.flatnonzero(counts).tolist() for j in range(len(shown))]
    texts = {(i, j): f"{shares[i, j]:.0%}\n{true[i, j]:.0%}" for i, j in cells}
    _write_cells(axes, texts, shares, size=9 if len(shown) <= 12 else 6)
    axes.set_xlabel("\n".join(filter(None, ["label: predicted (above), there (below)", every.legend])))
    axes.set_ylabel("images with the label (number)")
    more = f"\nthe {len(shown)} most wrong of {len(classes):,} labels" if len(shown) < len(classes) else ""
    axes.set_title(f"{safe_label(title, int(side * 9))}\n{of}: labels on {counted(images, what)}{more}", fontsize=11)
    bar.set_label("share on which the label is predicted")
    return png(figure, source)


def _most_confused(matrix: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, Labels, int]:
    """(the rows of the matrix that are shown, with a last column for all other classes if there are any; the names of the
    rows; how many classes are left out)."""
    k, every = len(classes), labels(classes)
    if k <= MOST_CLASSES:
        return matrix, every, 0
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    chosen = np.sort(np.argsort(-mistakes, kind="stable")[: MOST_CLASSES - 1])
    rows = matrix[chosen]
    others = rows.sum(1) - rows[:, chosen].sum(1)
    names = Labels([every.texts[i] for i in chosen], every.legend)
    return np.concatenate([rows[:, chosen], others[:, None]], axis=1), names, k - len(chosen)


def _write_cells(axes: Any, texts: Mapping[tuple[int, int], str], shares: np.ndarray, size: int) -> None:
    for (i, j), text in texts.items():  # an empty cell has none, its colour is enough
        ink = "black" if shares[i, j] > 0.55 else "white"
        cell = axes.text(j, i, text, ha="center", va="center", fontsize=size, color=ink)
        cell.set_in_layout(False)  # it lies within the axes, so the layout need not measure it


def history_png(experiment: Experiment) -> bytes:
    """Loss, accuracy and recall per class over the epochs, the parent's epochs included and the fork marked."""
    history = read_history(experiment)
    classes = [c.removeprefix("recall_") for c in history if c.startswith("recall_")]
    kind, word = ("ap", "average precision") if classes and f"ap_{classes[0]}" in history else ("recall", "recall")
    every, shown = labels(classes), _lowest(history, classes, kind)
    names = dict(zip(classes, every.texts, strict=True))
    lines = sum(names[c].count("\n") + 1 for c in shown)  # of the legend
    figure = new_figure(13, max(4.2, 0.8 + 0.17 * lines + 0.06 * len(shown)))
    loss, accuracy, recall = figure.subplots(1, 3)
    _curve(loss, history, "train_loss", "training", COLOURS[0])
    _curve(loss, history, "val_loss", "validation", COLOURS[1])
    _curve(accuracy, history, "train_acc", "training", COLOURS[0])
    _curve(accuracy, history, "val_acc", "validation", COLOURS[1])
    _curve(accuracy, history, "val_macro_f1", "macro-F1", COLOURS[2], "--")
    if kind == "ap":
        _curve(accuracy, history, MAP, MAP, COLOURS[3], "-.")
    for i, c in enumerate(shown):
        dashes = ("-", "--", ":")[i // len(COLOURS) % 3]
        _curve(recall, history, f"{kind}_{c}", names[c], COLOURS[i % len(COLOURS)], dashes)
    title = f"{word} per class" if len(shown) == len(classes) else f"lowest {word}s of {len(classes):,} classes"
    for axes, head in ((loss, "loss"), (accuracy, "accuracy"), (recall, f"{title} (validation)")):
        _finish_axes(axes, head, experiment.config().fork or None)
        if axes is not loss:
            axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    loss.legend(fontsize=8, loc="upper right")  # loc="best" would search for a place in every pass of the layout
    accuracy.legend(fontsize=8, loc="lower right")
    if recall.lines:
        recall.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if every.legend:
        figure.supxlabel(every.legend, fontsize=8)
    figure.suptitle(safe_label(experiment.id, 90), fontsize=12)
    return png(figure, history_source(experiment))


def history_source(experiment: Experiment) -> str:
    """The hash of what :func:`history_png` shows."""
    return files.sha256_file(experiment.folder / layout.HISTORY_CSV)


def _lowest(history: History, classes: list[str], kind: str) -> list[str]:
    """The classes with a curve: all, or those with the lowest recall or other ``kind`` of metric in the last epoch, in the order of the classes."""
    last = {c: values[-1] for c in classes if (values := history.get(f"{kind}_{c}")) and values[-1] is not None}
    if len(last) <= MOST_CURVES:
        return classes if len(classes) <= MOST_CURVES else list(last)
    chosen = set(sorted(last, key=lambda c: last[c] or 0.0)[:MOST_CURVES])
    return [c for c in classes if c in chosen]


def _curve(axes: Any, history: History, column: str, label: str, colour: str, dashes: str = "-") -> None:
    points = [(e, v) for e, v in zip(epochs_of(history), history.get(column, []), strict=False) if v is not None]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=label, color=colour, linestyle=dashes, marker="o", markersize=3.5, linewidth=1.6)


def _finish_axes(axes: Any, title: str, fork: int | None) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if fork is not None:
        axes.axvline(fork, color="0.35", linestyle="--", linewidth=1)
        axes.annotate(
            "fork",
            (fork, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            fontsize=8,
        )
