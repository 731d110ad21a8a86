"""Labelled images, read from the formats people have through one door; training and measuring are not done here."""

from __future__ import annotations

from edgeloc.data.opening import open_dataset
from edgeloc.data.sample import Dataset, Sample

__all__ = ["Dataset", "Sample", "open_dataset"]
