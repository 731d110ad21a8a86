"""The network together with its losses and metrics, ready for Keras's fit; only the network inside it is ever saved."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from edgeloc.contract import Contract
from edgeloc.converters.training.losses import box_loss, cell_loss, decode_boxes, iou
from edgeloc.converters.training.roles import read_roles

__all__ = ["TrainableLocalizer"]

_WEIGHTS = {"box": 1.0, "cell": 0.25, "presence": 0.5, "class": 0.5}
_LABEL_SMOOTHING = 0.1


class TrainableLocalizer(keras.Model):  # type: ignore[misc]
    """Wraps a network whose outputs are what `contract` says; targets are as the batches give them.

    Metrics: `box_iou`, the mean IoU over images with an object; `presence_accuracy`;
    `label_accuracy` over images with a label.
    """

    def __init__(
        self, network: keras.Model, names: tuple[str, ...], contract: Contract, loss_parts: tuple[str, ...]
    ) -> None:
        super().__init__(name="training")
        self.network = network
        self._names, self._contract = names, contract
        self._loss_parts = loss_parts
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in (
                "box_loss", "presence_loss", "class_loss",
                "box_iou", "presence_accuracy", "label_accuracy",
            )
        }  # fmt: skip

    def call(self, image: Any, training: bool | None = None) -> dict[str, Any]:
        outputs = self.network(image, training=training)
        if not isinstance(outputs, dict):
            outputs = dict(zip(self._names, keras.tree.flatten(outputs), strict=True))
        return read_roles(outputs, self._contract)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The weighted sum; box and class count only where an object is, each as the mean over those images."""
        present, labelled = y["present"], ops.cast(y["label"] >= 0, "float32")
        boxes = decode_boxes(y_pred)
        box = self._masked("box_loss", box_loss(y["box"], boxes, self._loss_parts), present)
        cell = ops.sum(cell_loss(y["box"], y_pred) * present) / ops.maximum(ops.sum(present), 1.0)
        self._masked("box_iou", iou(y["box"], boxes), present)
        total = _WEIGHTS["box"] * box + _WEIGHTS["cell"] * cell
        if "presence" in y_pred:
            total = total + _WEIGHTS["presence"] * self._presence_loss(present, y_pred["presence"])
        if "class" in y_pred:
            total = total + _WEIGHTS["class"] * self._class_loss(y["label"], y_pred["class"], labelled)
        return total + sum(self.losses)

    def _presence_loss(self, present: Any, logits: Any) -> Any:
        everywhere = ops.ones_like(present)
        right = ops.equal(logits[:, 0] > 0, present > 0.5)
        self._masked("presence_accuracy", ops.cast(right, "float32"), everywhere)
        loss = keras.losses.binary_crossentropy(present[:, None], logits, from_logits=True)
        return self._masked("presence_loss", loss, everywhere)

    def _class_loss(self, label: Any, logits: Any, labelled: Any) -> Any:
        target = ops.one_hot(ops.maximum(label, 0), logits.shape[-1])
        # Written out, because Keras warns of a single class, which is fine here.
        target = target * (1 - _LABEL_SMOOTHING) + _LABEL_SMOOTHING / logits.shape[-1]
        loss = -ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
        right = ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(label, "int64")), "float32")
        self._masked("label_accuracy", right, labelled)
        return self._masked("class_loss", loss, labelled)

    def _masked(self, name: str, values: Any, mask: Any) -> Any:
        """The mean of `values` where `mask` is 1, also put on the metric `name`."""
        self._means[name].update_state(values, sample_weight=mask)
        return ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        results: dict[str, Any] = self.get_metrics_result()
        return results

    @property
    def metrics(self) -> list[Any]:
        return [self._loss_tracker, *self._means.values()]
