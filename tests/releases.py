"""Whether a release is older than the one with which all of this runs; docs/other_libraries.md says what torch does not trace."""

from importlib.metadata import version

import torch

OLDER_TORCH = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 13)
OLDER_OPEN_CLIP = int(version('open_clip_torch').partition('.')[0]) < 3
