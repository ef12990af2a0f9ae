"""A world of captioned pictures: one to three coloured shapes, drawn, said in words, and read back by an exact checker.

A `Scene` is what a caption means: `phrase` says it, `parse` reads it. A `Layout` is what a picture shows: `arrange` makes one of
a scene, `render` draws it, `read` finds it in a picture again, and `judge` says which parts of a scene hold of it; `check` is
`read` and `judge` in one. `ShapesDataset` is all of it by index and seed.
"""

from .captions import Scene, Thing, phrase, vocabulary
from .checker import check, check_all, read
from .dataset import KINDS, Sample, ShapesDataset, collate, draw_scene
from .judge import Verdict, judge
from .layout import HELD_OUT, Body, Layout, arrange
from .parse import parse
from .render import render

__all__ = [
    'HELD_OUT',
    'KINDS',
    'Body',
    'Layout',
    'Sample',
    'Scene',
    'ShapesDataset',
    'Thing',
    'Verdict',
    'arrange',
    'check',
    'check_all',
    'collate',
    'draw_scene',
    'judge',
    'parse',
    'phrase',
    'read',
    'render',
    'vocabulary',
]
