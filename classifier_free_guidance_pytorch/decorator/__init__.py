"""Guidance for a method or for a whole class. Read `guide.py` first.

guide            one guided call: which passes are made, and what becomes of them
keywords         what a call says of texts and guidance, checked
call             one call and its forward passes
conditioned      the passes of a function that receives conditions
drop_prob        the passes of a function that handles texts itself
batched          several passes in one forward
outputs          which part of an output is guided
signature        where a function takes its text, read when it is decorated
method           the decorator of a method
binding          texts and scale bound, for samplers that know nothing of them
class_decorator  the decorator of a class
"""

from classifier_free_guidance_pytorch.decorator.binding import Bound
from classifier_free_guidance_pytorch.decorator.class_decorator import classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.decorator.method import classifier_free_guidance

__all__ = ['Bound', 'classifier_free_guidance', 'classifier_free_guidance_class_decorator']
