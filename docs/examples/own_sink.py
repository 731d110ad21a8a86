"""A sink of your own: count what was seen and write a table when the run ends."""

import csv
from collections import Counter

import edgeloc
from edgeloc.models import SHIPPED_INT8


class CountSink(edgeloc.Sink):
    """Counts the frames in which each class was seen."""

    def __init__(self, path):
        self.path, self.counts = path, Counter()

    @property
    def name(self):
        return self.path

    def open(self, *, fps=None, live=False):
        self.counts.clear()

    def write(self, observation, drawn):
        self.counts.update(found.label or "unknown" for found in observation.result.objects)

    def close(self):
        with open(self.path, "w", newline="") as file:
            csv.writer(file).writerows(self.counts.most_common())


sink = CountSink("counts.csv")
edgeloc.run("synthetic://?seed=4&frames=30&live=0", edgeloc.Localizer(SHIPPED_INT8), sink)
print(sink.counts.most_common(3))
