"""Contracts of detectors by their family: presets of the description, each held against the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from edgeloc.decode import Decoder
from edgeloc.errors import ContractError
from edgeloc.model.arrangement import Asked, arranged, grid_strides, locations_total
from edgeloc.model.contract import Activation, Contract, InputSpec, OutputSpec, Resize, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, DetectorUnits, Locations, Scores, Selection
from edgeloc.model.fit import check_contract
from edgeloc.model.network import Network, read_network

__all__ = ["FAMILIES", "Asked", "Family", "contract_like", "families_that_fit"]


@dataclass(frozen=True, slots=True)
class Family:
    """How the detectors of one family expect their image and answer.

    Parameters:
        title: which models these are, in a few words.
        build: makes outputs and description for a network; ContractError says why it does not fit.
        color: what a float model takes.
        mean, std: likewise; an integer model takes pixels as they are.
        resize: how a frame becomes its input.
        pad_value: fills a letterbox.
        threshold: the score from which its authors show a box.
    """

    title: str
    build: Callable[[Network, Asked], tuple[tuple[OutputSpec, ...], DetectorSpec | None]]
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    resize: Resize = "letterbox"
    pad_value: int = 114
    threshold: float = 0.25


def contract_like(family: str, model: str | Path | Network, asked: Asked | None = None) -> Contract:
    """The contract of a model of this family, after holding it against the file.

    Raises ContractError that says what does not fit, and which other families would.
    """
    asked = asked or Asked()
    if family not in FAMILIES:
        raise ContractError(field="like", value=family, allowed=f"one of {', '.join(FAMILIES)}")
    network = model if isinstance(model, Network) else read_network(model)
    try:
        return _built(family, network, asked)
    except ContractError as error:
        if asked.changes and _fits(family, network, replace(asked, changes={})):
            raise  # of what was to be changed, and not of the family
        others = ", ".join(name for name in families_that_fit(network, asked) if name != family)
        hint = f"these families fit its tensors: {others}" if others else ""
        raise ContractError(
            f"{network.path} is no {family}: {error.message or error}", hint=hint or error.hint
        ) from error


def families_that_fit(network: Network, asked: Asked) -> Iterator[str]:
    """The families whose outputs the network has; what its numbers mean, no shape shows."""
    asked = replace(asked, outputs={}, changes={})
    yield from (name for name in FAMILIES if _fits(name, network, asked))


def _fits(name: str, network: Network, asked: Asked) -> bool:
    try:
        _built(name, network, asked)
    except ContractError:
        return False
    return True


def _built(name: str, network: Network, asked: Asked) -> Contract:
    family = FAMILIES[name]
    outputs, detector = family.build(network, asked)
    contract = Contract(
        input=_input(family, network, asked),
        outputs=outputs,
        labels=asked.labels,
        thresholds=Thresholds(presence=family.threshold),
        detector=detector,
    )
    contract = _changed(contract, asked.changes)
    Decoder(contract)  # whether its parts go together
    check_contract(contract, network.inputs, network.outputs)
    return contract


def _input(family: Family, network: Network, asked: Asked) -> InputSpec:
    mean, std = network.pixel_range or asked.normalization or (family.mean, family.std)
    channels = network.channels
    if channels == 1 or len(mean) not in (1, channels):
        mean, std = mean[:1], std[:1]
    return InputSpec(
        tensor=network.input,
        width=network.width,
        height=network.height,
        color="gray" if channels == 1 else family.color,
        mean=mean,
        std=std,
        resize=family.resize,
        pad_value=family.pad_value,
        layout=network.layout,
    )


def _changed(contract: Contract, changes: Mapping[str, Any]) -> Contract:
    """The contract with some values changed, by path: `detector.box.units`, `outputs.0.level`."""
    if not changes:
        return contract
    data: Any = json.loads(contract.to_json())
    for path, value in changes.items():
        *keys, last = path.split(".")
        place = data
        for key in keys:
            place = _step(place, key, path)
        _step(place, last, path)
        place[int(last) if isinstance(place, list) else last] = value
    return Contract.from_json(json.dumps(data))


def _step(place: Any, key: str, path: str) -> Any:
    if isinstance(place, list) and key.isdigit() and int(key) < len(place):
        return place[int(key)]
    if isinstance(place, dict) and key in place:
        return place[key]
    if isinstance(place, dict):
        known = ", ".join(place)
    elif isinstance(place, list):
        known = f"0 to {len(place) - 1}" if place else "nothing"
    else:
        known = "a single value"
    raise ContractError(f"{path} is no field of the contract: at {key!r} there is {known}")


def _need_labels(asked: Asked) -> None:
    if not asked.labels:
        raise ContractError("its classes need their names", hint="give them with {labels}: a file with one in a line")


def _own_units(network: Network) -> DetectorUnits:
    """Ultralytics' exports: .tflite answers in fractions of the input, .onnx in its pixels."""
    return "pixels" if network.format == "onnx" else "fraction"


Built = tuple[tuple[OutputSpec, ...], DetectorSpec | None]
_POSTPROCESS_PARTS = ("box", "class-number", "score", "count")
_NAMED_PARTS = {"boxes": "box", "labels": "class-number", "classes": "class-number", "scores": "score"}


def _ssd_postprocess(network: Network, asked: Asked) -> Built:
    named = dict(zip(network.postprocessed, _POSTPROCESS_PARTS, strict=False))
    if not named and not asked.outputs:
        raise ContractError(
            "it has no operator TFLite_Detection_PostProcess, whose outputs are boxes, classes, scores and a count"
        )
    spec = DetectorSpec(box=DetectorBox("yxyx"), selection=Selection("none"))
    return _ready(network, asked, named, spec)


def _faster_rcnn(network: Network, asked: Asked) -> Built:
    named = {name: _NAMED_PARTS[name] for name in network.outputs if name in _NAMED_PARTS}
    if not {"box", "score"} <= set(named.values()) | {part for parts in asked.outputs.values() for part in parts}:
        raise ContractError(
            f"its outputs are {', '.join(network.outputs)}, and not boxes, labels and scores",
            hint="say what each is with {output}, as in NAME=box, NAME=class-number, NAME=score",
        )
    # torchvision counts the background as class 0.
    spec = DetectorSpec(box=DetectorBox("xyxy", "pixels"), scores=Scores(first_class=1), selection=Selection("none"))
    return _ready(network, asked, named, spec)


def _ready(network: Network, asked: Asked, named: Mapping[str, str], spec: DetectorSpec) -> Built:
    """Outputs that the model has selected by itself, each part a tensor."""
    _need_labels(asked)
    parts = {name: (part,) for name, part in named.items()} | dict(asked.outputs)
    outputs = [OutputSpec(name, "detections", parts=parts[name]) for name in network.outputs if name in parts]
    return tuple(outputs), spec


def _ssd(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    if asked.anchors is None:
        raise ContractError(
            "an SSD's boxes are offsets from anchors, which no file holds",
            hint="give them with {anchors}: 'STRIDE: WxH WxH; STRIDE: WxH', a file with a table, or none where the "
            "model decodes its boxes itself",
        )
    labels, shapes = len(asked.labels), [info.shape for info in network.outputs.values()]
    background: Literal["none", "first"] = "first" if any(labels + 1 in shape[1:] for shape in shapes) else "none"
    activation: Activation = "softmax" if background == "first" else "sigmoid"
    if any(network.activations.get(name) for name in network.outputs):
        activation = "none"  # the graph has it
    locations = _placed(asked, grid_strides(network, ()))
    box = DetectorBox("xyxy") if asked.anchors == "none" else _SSD_BOX
    selection = Selection("by-class", 0.5)
    spec = DetectorSpec(locations, box, Scores(activation, background=background), selection)
    wide = [shape[-1] for shape in shapes if shape[-1] > 4 and shape[-1] not in (labels, labels + 1)]
    boxes = ("box", f"unused:{wide[0] - 4}") if wide and locations.table == () and _extra(spec, wide[0]) else ("box",)
    per_cell = locations.per_cell(0) if locations.anchors else 1
    return arranged(network, asked, spec, boxes, ("class",), anchors=per_cell), spec


def _extra(spec: DetectorSpec, width: int) -> bool:
    """Whether a box's row is too long by something that is no multiple of a box: landmarks behind it."""
    per_cell = {len(level) for level in spec.locations.anchors} or {1}
    return all(width != 4 * count for count in per_cell)


_SSD_BOX = DetectorBox("cxcywh", "anchor", size="exp", variances=(0.1, 0.2))


def _placed(asked: Asked, strides: tuple[int, ...]) -> Locations:
    """The locations that the user's anchors make."""
    if isinstance(asked.anchors, Mapping):
        levels = sorted(asked.anchors)
        return Locations(tuple(levels), anchors=tuple(tuple(asked.anchors[stride]) for stride in levels))
    if asked.anchors is None or asked.anchors == "none":
        return Locations()
    return Locations(table=tuple(asked.anchors))


def _yolo_anchors(center: Literal["sigmoid", "wide-sigmoid"], size: Literal["exp", "squared-sigmoid"]) -> Any:
    def build(network: Network, asked: Asked) -> Built:
        _need_labels(asked)
        strides, parts = grid_strides(network, ()), ("box", "objectness", "class")
        if not strides or asked.anchors == "none":
            spec = DetectorSpec(box=DetectorBox("cxcywh", _own_units(network)), selection=Selection("by-class", 0.45))
            outputs = arranged(network, asked, spec, parts)
            _require_rows(network, outputs, locations_total(network, (8, 16, 32), 3), "three for each cell")
            return outputs, spec
        if not isinstance(asked.anchors, Mapping):
            raise ContractError(
                f"its boxes are sizes times anchors, which no file holds, for the strides {strides}",
                hint="give them in pixels with {anchors}, as in '8: 10x13 16x30 33x23; 16: 30x61 62x45 59x119'",
            )
        if tuple(sorted(asked.anchors)) != strides:
            raise ContractError(f"there are anchors for the strides {sorted(asked.anchors)}, its grids have {strides}")
        locations = replace(_placed(asked, strides), offset=0.0)
        box = DetectorBox("cxcywh", "stride", "anchor", center, size)
        spec = DetectorSpec(locations, box, Scores("sigmoid", "sigmoid"), Selection("by-class", 0.45))
        return arranged(network, asked, spec, parts, anchors=locations.per_cell(0)), spec

    return build


def _yolox(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    spec = DetectorSpec(
        Locations(grid_strides(network, (8, 16, 32)), 0.0),
        DetectorBox("cxcywh", "stride", size="exp"),
        selection=Selection("by-class", 0.45),
    )
    return arranged(network, asked, spec, ("box", "objectness", "class")), spec


def _yolov8(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    spec = DetectorSpec(box=DetectorBox("cxcywh", _own_units(network)), selection=Selection("by-class", 0.7))
    outputs = arranged(network, asked, spec, ("box", "class"))
    _require_rows(network, outputs, locations_total(network, (8, 16, 32)), "one for each cell")
    return outputs, spec


def _require_rows(network: Network, outputs: Sequence[OutputSpec], wanted: int, what: str) -> None:
    shape = network.outputs[outputs[0].tensor].shape
    rows = shape[-1] if outputs[0].layout == "channels-first" else shape[-2]
    if len(outputs) != 1 or rows != wanted:
        raise ContractError(f"it answers {rows:,} rows, and strides 8, 16 and 32 make {wanted:,}, {what}")


def _yolo_end2end(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    spec = DetectorSpec(box=DetectorBox("xyxy", _own_units(network)), selection=Selection("none"))
    return arranged(network, asked, spec, ("box", "score", "class-number")), spec


def _nanodet(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    labels, widths = len(asked.labels), {size for info in network.outputs.values() for size in info.shape[1:]}
    bins = next((bins for bins in range(4, 33) if widths & {4 * bins, labels + 4 * bins}), 8)
    strides: tuple[int, ...] = (8, 16, 32, 64)
    offset = 0.0
    rows = max(max(info.shape[1:], default=0) for info in network.outputs.values())
    if len(network.outputs) in (3, 6) or rows == locations_total(network, strides[:3]):
        strides, offset = strides[:3], 0.5  # before NanoDet-Plus
    spec = DetectorSpec(
        Locations(grid_strides(network, strides), offset),
        DetectorBox("distances", "stride", bins=bins),
        selection=Selection("by-class", 0.6),
    )
    if len(network.outputs) in (1, 3, 4):
        return arranged(network, asked, spec, ("class", "box")), spec
    return arranged(network, asked, spec, ("class",), ("box",)), spec


def _fastestdet(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    spec = DetectorSpec(
        Locations(grid_strides(network, (16,)), 0.0),
        DetectorBox("cxcywh", "stride", "fraction", "tanh", "sigmoid"),
        Scores(powers=(0.6, 0.4)),
        Selection("by-class", 0.45),
    )
    return arranged(network, asked, spec, ("objectness", "box", "class")), spec


def _fomo(network: Network, asked: Asked) -> Built:
    _need_labels(asked)
    spec = DetectorSpec(
        Locations(grid_strides(network, (8,))),
        DetectorBox("cell"),
        Scores("none", background="first"),
        Selection("merge"),
    )
    return arranged(network, asked, spec, ("class",)), spec


def _localizer(network: Network, asked: Asked) -> Built:
    """Presence, class and box as outputs of their own, or one vector with the slots that the user names."""
    labels, outputs = len(asked.labels), []
    sizes = {"presence": 1, "class": labels, "box": 4}
    for name, info in network.outputs.items():
        given, numbers = asked.outputs.get(name, ()), prod(info.shape)
        fits = list(given) or [role for role, size in sizes.items() if size == numbers]
        if len(given) > 1:
            slots = [f"class:{i}" for i in range(labels)]
            spread = [slot for part in given for slot in (slots if part == "class" else [part])]
            outputs.append(OutputSpec(name, "vector", slots=tuple(spread)))
        elif len(fits) == 1:
            outputs.append(OutputSpec(name, fits[0], network.left_over(name, fits[0])))  # type: ignore[arg-type]
        else:
            raise ContractError(
                f"the output {name!r} is {info.shape}, which is no presence, box or class alone",
                hint="say what it is with {output}, as in NAME=presence,cx,cy,w,h,class",
            )
    return tuple(outputs), None


FAMILIES: dict[str, Family] = {
    "ssd-postprocess": Family(
        "SSDs that end in TFLite_Detection_PostProcess (TensorFlow, Coral, EfficientDet-Lite)",
        _ssd_postprocess, mean=(127.5,), std=(127.5,), resize="stretch", threshold=0.5,
    ),
    "ssd": Family(
        "SSDs with raw outputs and anchors", _ssd, mean=(127.5,), std=(127.5,), resize="stretch", threshold=0.5
    ),
    "yolo-anchors": Family("YOLOv3 and v4", _yolo_anchors("sigmoid", "exp")),
    "yolo-anchors-v5": Family("YOLOv5 and v7", _yolo_anchors("wide-sigmoid", "squared-sigmoid")),
    "yolox": Family("YOLOX", _yolox, "bgr", std=(1.0,), resize="letterbox-top-left", threshold=0.3),
    "yolov8": Family("YOLOv8, YOLO11", _yolov8),
    "yolo-end2end": Family("YOLO26 and v10, which select by themselves", _yolo_end2end),
    "nanodet": Family(
        "NanoDet and NanoDet-Plus", _nanodet, "bgr", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "stretch",
        threshold=0.4,
    ),
    "fastestdet": Family("FastestDet", _fastestdet, "bgr", resize="stretch", threshold=0.6),
    "fomo": Family("FOMO: cells with an object's centre, no sizes", _fomo, resize="stretch", threshold=0.5),
    "localizer": Family("one object: presence, box and class", _localizer, mean=(127.5,), std=(127.5,), threshold=0.5),
    "faster-rcnn": Family("Faster R-CNN as torchvision exports it", _faster_rcnn, resize="stretch", threshold=0.5),
}  # fmt: skip
