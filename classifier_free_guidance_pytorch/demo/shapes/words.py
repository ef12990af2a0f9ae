"""The words of the picture world: for each meaning, every way a caption may say it, the plainest way first.

Meanings are plain strings ('red', 'circle', 'left of'), so a scene prints as what it means. The tables are the single source of
the phrasings (`captions.py`), of their reading (`parse.py`) and of the vocabulary of the embedded encoder.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[str, ...]] = {
    'red': ('red', 'crimson', 'scarlet', 'ruby'),
    'orange': ('orange', 'tangerine', 'amber'),
    'yellow': ('yellow', 'golden', 'lemon'),
    'green': ('green', 'emerald', 'jade'),
    'cyan': ('cyan', 'turquoise', 'aqua'),
    'blue': ('blue', 'azure', 'cobalt'),
    'purple': ('purple', 'violet', 'indigo'),
    'pink': ('pink', 'rosy', 'salmon'),
}

# (singular, plural)
SHAPES: dict[str, tuple[tuple[str, str], ...]] = {
    'circle': (('circle', 'circles'), ('disc', 'discs'), ('disk', 'disks')),
    'square': (('square', 'squares'), ('box', 'boxes')),
    'triangle': (('triangle', 'triangles'),),
    'star': (('star', 'stars'),),
    'cross': (('cross', 'crosses'), ('plus', 'pluses')),
    'ring': (('ring', 'rings'), ('hoop', 'hoops'), ('donut', 'donuts')),
    'heart': (('heart', 'hearts'),),
    'diamond': (('diamond', 'diamonds'), ('rhombus', 'rhombuses')),
}
ANY_SHAPE: tuple[tuple[str, str], ...] = (('shape', 'shapes'), ('object', 'objects'), ('thing', 'things'), ('figure', 'figures'))

SIZES: dict[str, tuple[str, ...]] = {
    'small': ('small', 'tiny', 'little', 'mini'),
    'medium': ('medium', 'moderate', 'middling'),
    'large': ('large', 'big', 'huge', 'giant'),
}

COUNTS: dict[int, tuple[str, ...]] = {
    1: ('a', 'one', 'a single'),
    2: ('two', 'a pair of', 'a couple of'),
    3: ('three', 'a trio of'),
}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    'dark': ('dark', 'black'),
    'light': ('light', 'white', 'bright'),
    'gray': ('gray', 'grey'),
    'navy': ('navy', 'midnight'),
}
BACKGROUND_NOUNS: tuple[str, ...] = ('background', 'backdrop', 'canvas', 'ground')

RELATIONS: dict[str, tuple[str, ...]] = {
    'above': ('above', 'over', 'higher than'),
    'below': ('below', 'under', 'beneath', 'underneath', 'lower than'),
    'left of': ('left of', 'to the left of'),
    'right of': ('right of', 'to the right of'),
}
OPPOSITE: dict[str, str] = {'above': 'below', 'below': 'above', 'left of': 'right of', 'right of': 'left of'}

PLACES: dict[str, tuple[str, ...]] = {
    'left': ('on the left', 'at the left side', 'in the left half'),
    'right': ('on the right', 'at the right side', 'in the right half'),
    'top': ('at the top', 'near the top', 'in the top half'),
    'bottom': ('at the bottom', 'near the bottom', 'in the bottom half'),
    'center': ('in the center', 'in the middle', 'in the centre'),
    'top left': ('in the top left corner', 'at the top left', 'in the upper left'),
    'top right': ('in the top right corner', 'at the top right', 'in the upper right'),
    'bottom left': ('in the bottom left corner', 'at the bottom left', 'in the lower left'),
    'bottom right': ('in the bottom right corner', 'at the bottom right', 'in the lower right'),
}

OPENINGS: tuple[str, ...] = (
    'a picture of',
    'an image of',
    'a drawing of',
    'a photo of',
    'a painting of',
    'an illustration of',
    'a sketch of',
    'a view of',
    'an icon of',
    'here is',
    'look at',
    'this shows',
    'we see',
)
