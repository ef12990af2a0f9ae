"""Code that was written for release 0.7.1, unchanged, after one line:

>>> from classifier_free_guidance_pytorch import compat
>>> compat.like_0_7_1()
>>> compat.like_0_7_1(False)
"""

from classifier_free_guidance_pytorch.conditioners.base import Conditioner
from classifier_free_guidance_pytorch.conditioners.tokens import TokenConditioner


def like_0_7_1(enabled: bool = True) -> None:
    """Let every conditioner of this process answer as release 0.7.1 did, where 1.0 answers in another form.

    Calling a conditioner returns the pair `(cond_fns, text_cond)`. `embed_texts` of conditioners on tokens returns the padded
    tensor without its mask, and a bare tensor given as `text_embeds` gets its mask from `text_embed_pad_value`: a token is
    padding where all of it has that value. Nothing is patched: these are attributes of classes, which a subclass can also set for
    itself.

    Args:
        enabled: False goes back to the answers of 1.0.
    """
    Conditioner.return_text_cond = enabled
    TokenConditioner.mask_from_pad_value = enabled
