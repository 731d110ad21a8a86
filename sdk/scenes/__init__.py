"""Procedural scenes with exact truth: an object on a textured ground, as single images and as clips."""

from __future__ import annotations

from edgeloc.scenes.generator import Clip, Scene, SceneGenerator
from edgeloc.scenes.shapes import SCENE_LABELS

__all__ = ["SCENE_LABELS", "Clip", "Scene", "SceneGenerator"]
