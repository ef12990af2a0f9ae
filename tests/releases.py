"""Whether torch is older than the release with which all of this library is traced; docs/other_libraries.md says what is not."""

import torch

OLDER_TORCH = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 13)
