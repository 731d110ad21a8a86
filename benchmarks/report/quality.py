"""What quantization cost, or how good one model is, as sections of the page: figures, sizes, classes, worst images."""

from __future__ import annotations

from collections.abc import Iterator

from edgeloc.benchmarks.report import pictures, plots
from edgeloc.benchmarks.report.document import Cell, Pair, Row, Section, Side, Table, figure, value_at
from edgeloc.benchmarks.result import BenchResult
from edgeloc.evaluation.accuracy import Accuracy, format_mean_interval
from edgeloc.evaluation.detection import DetectionRegression, WorstImage
from edgeloc.evaluation.figures import (
    Regression,
    Worst,
    describe_sizes,
    format_drop,
    format_interval,
    format_share,
)

__all__ = ["quality_sections"]

_SIZE_WORDS = "Size is the square root of the box's area over that of the image"
_CLASS_WORDS = "By the label of the object, as the data has it."
_KEY = "Green is the truth, blue the float model's (left), orange the quantized one's (right)."


def quality_sections(result: BenchResult) -> Iterator[Section]:
    """Those of the figures that `result` has."""
    if result.regression is not None and result.regression.rows:
        yield from _regression_sections(result, result.regression)
    if result.accuracy is not None and result.accuracy.rows:
        yield from _accuracy_sections(result, result.accuracy)
    if result.detection is not None:
        yield from _detection_sections(result, result.detection)


def _share(result: BenchResult, *path: str) -> Cell:
    return figure(result, format_share, *path)


def _count(result: BenchResult, *path: str) -> Cell:
    return figure(result, str, *path)


def _interval_by(figures: Regression | Accuracy | DetectionRegression) -> str:
    unit = "groups, such as the clips that the frames come from" if figures.ci_by == "group" else "images"
    return f"resampling {figures.ci_groups} {unit}"


def _regression_sections(result: BenchResult, regression: Regression) -> Iterator[Section]:
    interval = f"The drop is the mean of float minus quantized; its 95 % interval is from {_interval_by(regression)}."
    rule = "IoU counts every image that holds an object, whatever the presence score."
    shown = [plots.iou_scatter(regression), plots.drop_curve(regression)] if regression.images else []
    yield Section(
        "What quantization cost",
        f"Each image went through both models. {interval} {rule}",
        [_regression_table(result, regression)],
        shown,
    )
    bars = [plots.size_bars(regression)] if regression.images else []
    yield Section("By object size", f"{_SIZE_WORDS}: {describe_sizes()}.", [_split(result, "size", "by_size")], bars)
    if regression.by_class:
        yield Section("By class", _CLASS_WORDS, [_split(result, "class", "by_class")])
    yield _presence_section(result, regression)
    if regression.worst:
        words = f"Where quantization cost the most IoU. {_KEY}"
        yield Section("Worst images", words, pairs=[_worst_box(image) for image in regression.worst])


def _regression_table(result: BenchResult, regression: Regression) -> Table:
    """IoU of both models over all objects."""
    rows: list[Row] = [
        _both(result, "mean IoU", "mean_iou", figure(result, _drop, "regression", "mean_iou_drop")),
        ["its 95 % interval", "", "", Cell(format_interval(regression.drop_ci95))],
        _both(result, "images with IoU >= 0.5", "iou50"),
        _both(result, "images with IoU >= 0.75", "iou75"),
        ["mean IoU between the two models' boxes", "", _share(result, "regression", "mean_iou_float_to_quantized"), ""],
    ]
    return Table(["", "float", "quantized", "drop"], rows)


def _both(result: BenchResult, title: str, name: str, drop: Cell | None = None) -> Row:
    regression = result.regression
    before, after = (getattr(regression, f"{name}_{which}") for which in ("float", "quantized"))
    cells = [_share(result, "regression", f"{name}_{which}") for which in ("float", "quantized")]
    return [title, *cells, drop or format_drop(before, after)]


def _drop(value: float) -> str:
    return format_drop(value, 0.0)


def _split(result: BenchResult, what: str, part: str) -> Table:
    """IoU of both models by the object's size or class."""
    rows: list[Row] = []
    for name in getattr(result.regression, part):
        path = ("regression", part, name)
        means = [_share(result, *path, f"mean_iou_{which}") for which in ("float", "quantized")]
        between = _share(result, *path, "mean_iou_float_to_quantized")
        drop = figure(result, _drop, *path, "mean_iou_drop")
        rows.append([name, _count(result, *path, "images"), *means, drop, between])
    return Table([what, "images", "float", "quantized", "drop", "between the boxes"], rows)


def _presence_section(result: BenchResult, regression: Regression) -> Section:
    """Objects found, false alarms and classes, and how often the two models agree."""
    presence, classes = regression.presence, regression.classes
    rows: list[Row] = [
        _agreement(result, "presence threshold", "presence", "threshold"),
        _agreement(result, "objects found", "presence", "recall"),
        _agreement(result, "false alarms where there is no object", "presence", "false_alarms"),
        ["present or not, all images", "", "", _share(result, "regression", "presence", "agreement")],
    ]
    if classes.images:
        agreement = _share(result, "regression", "classes", "agreement")
        rows.append([*_agreement(result, "class", "classes", "top1")[:3], agreement])
    counts = presence.objects, presence.empty_images, presence.background_crops
    words = _counted(*counts, classes.images, classes.unknown_labels)
    return Section("Presence and class", words, [Table(["", "float", "quantized", "agreement"], rows)])


def _agreement(result: BenchResult, title: str, part: str, name: str) -> Row:
    cells = [_share(result, "regression", part, f"{name}_{which}") for which in ("float", "quantized")]
    return [title, *cells, ""]


def _counted(objects: int, empty: int, crops: int, labelled: int, unknown: int) -> str:
    """What presence and class were measured on."""
    words = f"Presence over {objects} images with an object, {empty} without and {crops} crops of background"
    words += f"; class over {labelled} labelled objects." if labelled else "."
    return words + (f" {unknown} have a label that the model does not know." if unknown else "")


def _worst_box(image: Worst) -> Pair:
    boxes = ([box] if box else [] for box in (image.truth, image.box_float, image.box_quantized))
    titles = f"float {format_share(image.iou_float)}", f"quantized {format_share(image.iou_quantized)}"
    between = f"the two boxes' IoU is {format_share(image.iou_float_to_quantized)}"
    label = f", {image.label}" if image.label else ""
    shown = pictures.side_by_side(image, *boxes)
    return _pair(image, "box", titles, shown, f"{image.name}{label}{_group(image)}; {between}")


def _pair(
    image: Worst | WorstImage, noun: str, titles: tuple[str, str], shown: tuple[str, str] | None, caption: str
) -> Pair:
    left, right = (
        Side(title, f"{which} {noun} and truth on {image.name}", picture)
        for title, which, picture in zip(titles, ("float", "quantized"), shown or (None, None), strict=True)
    )
    return Pair(left, right, caption)


def _group(image: Worst | WorstImage) -> str:
    return f", group {image.group}" if image.group else ""


def _accuracy_sections(result: BenchResult, accuracy: Accuracy) -> Iterator[Section]:
    """IoU, presence and class of one model without another to compare with."""
    counts = accuracy.images, accuracy.empty_images, accuracy.background_crops
    words = (
        "The model against the labels, without a float model to compare it with. IoU counts every image that holds an "
        f"object, whatever the presence score; its 95 % interval is from {_interval_by(accuracy)}. {_SIZE_WORDS}: "
        f"{describe_sizes()}. {_counted(*counts, accuracy.labelled, accuracy.unknown_labels)}"
    )
    yield Section("Accuracy", words, [_accuracy_table(result, accuracy)])
    if accuracy.mean_iou_by_class:
        labels = accuracy.mean_iou_by_class
        rows: list[Row] = [[label, _share(result, "accuracy", "mean_iou_by_class", label)] for label in labels]
        yield Section("By class", _CLASS_WORDS, [Table(["class", "mean IoU"], rows)])


def _accuracy_table(result: BenchResult, accuracy: Accuracy) -> Table:
    sizes: list[Row] = [
        [f"mean IoU of {name} objects", _share(result, "accuracy", "mean_iou_by_size", name)]
        for name in accuracy.mean_iou_by_size
    ]
    rows: list[Row] = [
        ["mean IoU", _share(result, "accuracy", "mean_iou")],
        ["its 95 % interval", format_mean_interval(accuracy)],
        ["images with IoU >= 0.5", _share(result, "accuracy", "iou50")],
        ["images with IoU >= 0.75", _share(result, "accuracy", "iou75")],
        *sizes,
        ["presence threshold", _share(result, "accuracy", "threshold")],
        ["objects found", _share(result, "accuracy", "recall")],
        ["false alarms where there is no object", _share(result, "accuracy", "false_alarms")],
    ]
    if accuracy.labelled:
        rows.append(["class", _share(result, "accuracy", "top1")])
    return Table(["", "model"], rows)


def _detection_sections(result: BenchResult, found: DetectionRegression) -> Iterator[Section]:
    """Of both models, or of the one there is."""
    alone = result.against is None
    words = (
        f"{found.images} images with {found.all.objects} objects"
        + ("" if found.labelled else ", as the float model finds them: nothing is labelled")
        + (f"; threshold {found.threshold_quantized:.2f}." if alone else _thresholds(found))
    )
    yield Section(
        "Objects", f"{words} Average precision is COCO's, over IoU 0.50 to 0.95.", [_detection_table(result, found)]
    )
    sizes = [name for name, figures in found.by_size.items() if figures.objects]
    if sizes:
        table = _found_table(result, "size", "by_size", sizes)
        yield Section("By object size", f"{_SIZE_WORDS}: {describe_sizes()}.", [table], [plots.found_bars(found)])
    if found.by_class:
        table = _found_table(result, "class", "by_class", list(found.by_class))
        yield Section("By class", "Average precision over IoU 0.50 to 0.95; found from the threshold on.", [table])
    if found.worst and not alone:
        words = f"Where quantization lost or moved most of the float model's boxes. {_KEY}"
        yield Section("Worst images", words, pairs=[_worst_objects(image, found) for image in found.worst])


def _thresholds(found: DetectionRegression) -> str:
    thresholds = f"thresholds {found.threshold_float:.2f} and {found.threshold_quantized:.2f}"
    return f"; {thresholds}. The 95 % interval of the drop is from {_interval_by(found)}."


def _detection_table(result: BenchResult, found: DetectionRegression) -> Table:
    rows: list[Row] = [
        _models(result, "average precision", ("precision_float", "ap"), ("precision_quantized", "ap")),
        _models(result, "average precision at IoU 0.50", ("precision_float", "ap50"), ("precision_quantized", "ap50")),
        _models(result, f"objects found, of {found.all.objects}", ("all", "recall_float"), ("all", "recall_quantized")),
        _models(result, "boxes of no object", ("false_float",), ("false_quantized",)),
    ]
    if result.against is None:
        return Table(["", "model"], [[row[0], row[2]] for row in rows])
    rows.append(["95 % interval of the average precision's drop", "", "", format_interval(found.drop_ci95)])
    rows.append(["mean IoU between matched boxes", "", _share(result, "detection", "all", "box_iou"), ""])
    rows.append(["class agreement of matched boxes", "", _share(result, "detection", "agreement"), ""])
    return Table(["", "float", "quantized", "drop"], rows)


def _models(result: BenchResult, title: str, before: tuple[str, ...], after: tuple[str, ...]) -> Row:
    paths = [("detection", *path) for path in (before, after)]
    drop = format_drop(*(value_at(result, *path) for path in paths))
    return [title, *(_share(result, *path) for path in paths), drop]


def _found_table(result: BenchResult, what: str, part: str, names: list[str]) -> Table:
    """By size or class: average precision where it is known, the share found, and the IoU of matched boxes."""
    alone, precise = result.against is None, part == "by_class"
    sides = ["quantized"] if alone else ["float", "quantized"]
    rows: list[Row] = []
    for name in names:
        path = ("detection", part, name)
        cells = [_count(result, *path, "objects")]
        if precise:
            cells += [_share(result, "detection", f"precision_{side}", "by_class", name) for side in sides]
        cells += [_share(result, *path, f"recall_{side}") for side in sides]
        rows.append([name, *cells, *([] if alone else [_share(result, *path, "box_iou")])])
    marks = [""] if alone else [" float", " quantized"]
    heads = [f"{figure}{mark}" for figure in (["AP", "found"] if precise else ["found"]) for mark in marks]
    return Table([what, "objects", *heads, *([] if alone else ["IoU of the boxes"])], rows)


def _worst_objects(image: WorstImage, found: DetectionRegression) -> Pair:
    row = next(row for row in found.rows if row.name == image.name)
    truth = [item.box for item in row.truth]
    before = [one.box for one in row.before if one.score >= found.threshold_float]
    after = [one.box for one in row.after if one.score >= found.threshold_quantized]
    moved = "" if image.box_iou is None else f", mean IoU of the others {image.box_iou:.2f}"
    caption = f"{image.name}{_group(image)}: {image.lost} of {image.found} objects lost{moved}"
    titles = f"float, {len(before)} boxes", f"quantized, {len(after)} boxes"
    return _pair(image, "boxes", titles, pictures.side_by_side(image, truth, before, after), caption)
