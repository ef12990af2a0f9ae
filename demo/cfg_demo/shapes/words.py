"""The words of the picture world: for each meaning, every way a caption may say it, the plainest way first.

Meanings are plain strings ('red', 'circle', 'left of'), so a scene prints as what it means. The tables are the single source of
the phrasings (`captions.py`), of their reading (`parse.py`) and of the vocabulary of the embedded encoder.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[str, ...]] = {
    'red': ('red', 'crimson', 'scarlet', 'ruby', 'cherry'),
    'orange': ('orange', 'tangerine', 'amber', 'apricot'),
    'yellow': ('yellow', 'golden', 'lemon', 'sunny'),
    'green': ('green', 'emerald', 'jade', 'grassy'),
    'cyan': ('cyan', 'turquoise', 'aqua', 'teal'),
    'blue': ('blue', 'azure', 'cobalt', 'sapphire'),
    'purple': ('purple', 'violet', 'indigo', 'plum'),
    'pink': ('pink', 'rosy', 'salmon', 'coral'),
}

# (singular, plural)
SHAPES: dict[str, tuple[tuple[str, str], ...]] = {
    'circle': (('circle', 'circles'), ('disc', 'discs'), ('disk', 'disks'), ('ball', 'balls')),
    'square': (('square', 'squares'), ('box', 'boxes'), ('block', 'blocks'), ('tile', 'tiles')),
    'triangle': (('triangle', 'triangles'), ('wedge', 'wedges')),
    'star': (('star', 'stars'),),
    'cross': (('cross', 'crosses'), ('plus', 'pluses')),
    'ring': (('ring', 'rings'), ('hoop', 'hoops'), ('donut', 'donuts'), ('loop', 'loops')),
    'heart': (('heart', 'hearts'),),
    'diamond': (('diamond', 'diamonds'), ('rhombus', 'rhombuses'), ('lozenge', 'lozenges')),
}
ANY_SHAPE: tuple[tuple[str, str], ...] = (('shape', 'shapes'), ('object', 'objects'), ('thing', 'things'), ('figure', 'figures'))

SIZES: dict[str, tuple[str, ...]] = {
    'small': ('small', 'tiny', 'little', 'mini', 'miniature'),
    'medium': ('medium', 'moderate', 'middling', 'average'),
    'large': ('large', 'big', 'huge', 'giant', 'massive', 'enormous'),
}

COUNTS: dict[int, tuple[str, ...]] = {
    1: ('a', 'one', 'a single'),
    2: ('two', 'a pair of', 'a couple of'),
    3: ('three', 'a trio of'),
}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    'dark': ('dark', 'black', 'dim'),
    'light': ('light', 'white', 'bright', 'pale'),
    'gray': ('gray', 'grey', 'ashen'),
    'navy': ('navy', 'midnight'),
}
BACKGROUND_NOUNS: tuple[str, ...] = ('background', 'backdrop', 'canvas', 'ground', 'surface', 'field')

RELATIONS: dict[str, tuple[str, ...]] = {
    'above': ('above', 'over', 'higher than'),
    'below': ('below', 'under', 'beneath', 'underneath', 'lower than'),
    'left of': ('left of', 'to the left of'),
    'right of': ('right of', 'to the right of'),
}
OPPOSITE: dict[str, str] = {'above': 'below', 'below': 'above', 'left of': 'right of', 'right of': 'left of'}

PLACES: dict[str, tuple[str, ...]] = {
    'left': ('on the left', 'at the left side', 'in the left half', 'by the left edge'),
    'right': ('on the right', 'at the right side', 'in the right half', 'by the right edge'),
    'top': ('at the top', 'near the top', 'in the top half', 'towards the top', 'by the upper edge'),
    'bottom': ('at the bottom', 'near the bottom', 'in the bottom half', 'towards the bottom', 'by the lower edge'),
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
    'a depiction of',
    'a rendering of',
    'a snapshot of',
    'a scene with',
    'an artwork of',
    'here is',
    'look at',
    'this shows',
    'we see',
)
