"""Labelled images, read from the usual formats by `open_dataset`."""

from __future__ import annotations

from edgeloc.data.opening import open_dataset
from edgeloc.data.sample import Dataset, Sample

__all__ = ["Dataset", "Sample", "open_dataset"]
