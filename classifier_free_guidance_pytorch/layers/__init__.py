"""Conditioning layers: a text feature meets the hiddens of a network.

Every layer works in two steps, so that what depends on the text alone is done once:

    condition = layer.condition(text features)          # a row per text: scale and shift, keys and values, ...
    hiddens   = layer(hiddens, condition, channel_first)
"""

from classifier_free_guidance_pytorch.layers.attention import CrossAttention
from classifier_free_guidance_pytorch.layers.concat import Concat
from classifier_free_guidance_pytorch.layers.condition import CondFn, Condition, ConditioningLayer
from classifier_free_guidance_pytorch.layers.film import FiLM
from classifier_free_guidance_pytorch.layers.place import Place, place_of

__all__ = ['Concat', 'CondFn', 'Condition', 'ConditioningLayer', 'CrossAttention', 'FiLM', 'Place', 'place_of']
