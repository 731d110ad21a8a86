"""Labelling by hand: images and what a model proposes for them, a page to correct it, a COCO file that grows."""
