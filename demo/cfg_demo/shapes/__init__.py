"""A world of captioned pictures: one to three coloured shapes, drawn, said in words, and read back by an exact checker.

A `Scene` is what a caption means: `phrase` says it, `parse` reads it. A `Layout` is what a picture shows: `arrange` makes one of
a scene, `render` draws it, `read` finds it in a picture again, and `judge` says which parts of a scene hold of it; `check` is
`read` and `judge` in one. `ShapesDataset` is all of it by index and seed.
"""

from cfg_demo.shapes.captions import Scene, Thing, phrase, vocabulary
from cfg_demo.shapes.checker import check, check_all, read
from cfg_demo.shapes.dataset import KINDS, Sample, ShapesDataset, collate, draw_scene
from cfg_demo.shapes.judge import Verdict, judge
from cfg_demo.shapes.layout import HELD_OUT, Body, Layout, arrange
from cfg_demo.shapes.parse import parse
from cfg_demo.shapes.render import render

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
