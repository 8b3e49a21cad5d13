"""Look at trained networks and at images: ``compare``, ``suggest``, ``evaluate``, ``audit``. The commands of these names call these functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raysweep.api.given import Reference, place, showing, text, trusting
from raysweep.errors import InputError
from raysweep.events import Decoding, Note, Progress

if TYPE_CHECKING:
    from raysweep.api.results import Audit, Comparison, Evaluation, Suggestion
    from raysweep.store.trust import Trust

IMPROVED = ("macro_f1", "accuracy")


def compare(*references: Reference, root: Reference | None = None) -> Comparison:
    """Which class a ratio taught, and which it only shifted (``raysweep compare``).

    Args:
        *references: a sweep, or a k-fold sweep; an experiment, which is compared with its parent; or several experiments, which are compared
            with the first. Ids, names, paths or objects.
        root: the folder of all experiments; default: that of the first object, else ``RAYSWEEP_ROOT`` or ``experiments``.

    Returns:
        Every difference as a share in [0, 1], with its interval and its label; ``.verdict`` in sentences, ``.to_pandas()`` as a table.

    Raises:
        NotFoundError: there is no such sweep or experiment, or it has no predictions yet. InputError: they cannot be compared.
    """
    if not references:
        raise InputError("Name a sweep, an experiment, or several experiments to compare.")
    opened = place(root, references[0])
    from raysweep.api.results import Comparison
    from raysweep.report import comparison
    from raysweep.report import folds as of_all_folds
    from raysweep.store import folds

    names = [text(r) for r in references]
    of_folds = folds.find(opened, names[0]) if len(names) == 1 else None
    found = comparison.compare(opened, names) if of_folds is None else of_all_folds.compare(of_folds)
    return Comparison.of_record(found)


def suggest(sweep: Reference, metric: str = "macro_f1", *, root: Reference | None = None) -> Suggestion:
    """The grid to try next, from what a sweep has shown (``raysweep suggest``).

    Args:
        sweep: id, name, path or object.
        metric: the metric to improve: ``macro_f1`` or ``accuracy``.

    Returns:
        ``.grid`` is what ``branch`` takes, ``.yaml`` the same as a file, with the reasons; ``.parent`` is the checkpoint.

    Raises:
        NotFoundError: there is no such sweep. InputError: it is an experiment, or no grid can be derived from it.
    """
    if metric not in IMPROVED:
        raise InputError(f"The metric {metric!r} cannot be improved: choose one of {', '.join(IMPROVED)}.")
    from raysweep.store import resolve
    from raysweep.store.sweep import Sweep

    of = resolve.find_any(place(root, sweep), text(sweep))
    if not isinstance(of, Sweep):
        raise InputError(f"{of.id} is an experiment; suggest takes a sweep. `raysweep branch` makes one.")
    from raysweep.api.results import Suggestion
    from raysweep.report import suggestion

    return Suggestion.of_record(suggestion.suggest(of, metric))


def evaluate(
    reference: Reference,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
    trust: bool | Trust = False,
) -> Evaluation:
    """Every number of trained networks with its interval (``raysweep evaluate``). A look at sealed test images is recorded.

    Args:
        reference: a checkpoint, an experiment (its best epoch), a sweep (its winner and the control), or ``hf:NAME``, ``timm:NAME``,
            ``torchvision:NAME``.
        split: ``test`` or ``val``.
        settings: a nested mapping, such as ``{"data": {"path": "other/images"}}``.
        classes: in the order of the network's outputs, where it is not known.
        root: the folder of all experiments; default: that of the object, else ``RAYSWEEP_ROOT`` or ``experiments``.
        progress: called with the events of :mod:`raysweep.events`.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Returns:
        The numbers; images that could not be decoded are named in ``.left_out`` and are not in them.

    Raises:
        InputError: something given is wrong, or there are no such images; then nobody has looked at any.
    """
    opened, name = place(root, reference), text(reference)
    if name.partition(":")[0] not in ("hf", "timm", "torchvision"):
        from raysweep.store import resolve

        resolve.check(opened, name, checkpoint=False)
    with showing(progress) as shown:
        from raysweep.api.results import Evaluation
        from raysweep.tools import evaluate as evaluating

        found = evaluating.evaluate(opened, name, split, settings, classes, trusting(trust), shown)
        return Evaluation.of_record(found)


def audit(
    data: Reference,
    *,
    near: bool = True,
    settings: Mapping[str, Any] | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Copies and contradictions among the images of a data set, and how they are read (``raysweep audit``).

    Args:
        data: a folder or a list of images, the name of a built-in data set (``faces``, ``digits``), or ``python:MODULE:NAME``.
        near: also look for nearly equal images, which takes longer.
        settings: how to read them, as a nested mapping: ``{"data": {"image_size": 48}}``.
        root: in which decoded images are kept; default: ``RAYSWEEP_ROOT`` or ``experiments``.
        progress: called with the events of :mod:`raysweep.events`.

    Raises:
        ConfigError: an option is wrong. DataError: the images cannot be read.
    """
    from raysweep.config import load as load_config
    from raysweep.config.own import target_of
    from raysweep.config.settings import SOURCES
    from raysweep.label_sets import not_built

    name = text(data)
    source = name in SOURCES or target_of(name) is not None
    values = {"data": {("source" if source else "path"): name, **dict((settings or {}).get("data") or {})}}
    checked = load_config.validate(values, "what was given")
    if checked.data.multi_label:
        raise not_built("`raysweep audit`", "What was read, and exact copies, are said by `raysweep run --dry-run`.")
    with showing(progress) as shown:
        from raysweep.api.results import Audit
        from raysweep.data import audit as auditing
        from raysweep.data import cache
        from raysweep.plan.experiment import cache_dir
        from raysweep.plan.networks import provide_images

        def told(done: int, total: int) -> None:
            shown(Decoding(done, total))

        provide_images(checked, trusted=True)
        found = cache.load(checked.data, cache_dir(checked, place(root)), told, lambda note: shown(Note(note)))
        return Audit.of_record(auditing.audit(found, name, near, told))
