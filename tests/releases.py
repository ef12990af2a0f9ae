"""Whether a release is older than the one with which all of this runs; docs/other_libraries.md says what torch does not trace."""

from importlib.metadata import version

import torch

OLDER_TORCH = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 13)
NO_PREPARED_RAW = 'torch 2.9 traces nothing that a named tuple holds beside its entries, as the pooled feature of raw_text_cond'
OLDER_OPEN_CLIP = int(version('open_clip_torch').partition('.')[0]) < 3
