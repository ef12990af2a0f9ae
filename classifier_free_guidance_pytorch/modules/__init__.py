"""Text into any module as it is: its parts are named, and follow the text.

part          which parts, by patterns over their names
dry_run       their widths and layouts, found by running the module once
running       how a part finds its condition while the module runs
following     the class that the module gets
conditioning  `text_conditioned`
"""

from classifier_free_guidance_pytorch.modules.conditioning import text_conditioned
from classifier_free_guidance_pytorch.modules.following import FollowsText
from classifier_free_guidance_pytorch.modules.part import Part

__all__ = ['FollowsText', 'Part', 'text_conditioned']
