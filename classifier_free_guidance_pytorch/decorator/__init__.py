"""Guidance for a method or for a whole class.

signature   where the function takes its text        (once, when it is decorated)
options     the guidance keywords of one call        -> a rule, a scale, a state
texts       the text keywords of one call            -> the condition of each branch
passes      one forward pass per branch, or one for all
outputs     which part of the outputs is guided
"""

from classifier_free_guidance_pytorch.decorator.class_decorator import classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.decorator.method import classifier_free_guidance

__all__ = ['classifier_free_guidance', 'classifier_free_guidance_class_decorator']
