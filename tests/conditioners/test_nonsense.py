"""Calls of a conditioner itself, and noise on prepared conditions, against nonsense: our error, before any encoder runs."""

import pytest
import torch

from classifier_free_guidance_pytorch import NullConditioner
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError
from tests.conditioners.making import KINDS, TEXTS, make, make_raw
from tests.decorator.models import build
from tests.tiny_models import TinyEncoder

NAN, HUGE = float('nan'), 10**400
NONSENSE = {
    'texts': [5, True, [], {}, ['a', 3], ['a', None], [1], b'a', object(), lambda: 0, str],
    'text_embeds': [5, 'x', True, [], (), {}, object(), ['a'], (1, 2), [None]],
    'cond_drop_prob': ['a', 2.0, -0.1, NAN, True, [], {}, object(), (0.1, 'a'), HUGE],
    'repeat_batch': [0, -1, 'a', 1.5, True, None, [], {}, object(), (True,)],
    'return_text_cond': ['x', 1, 0, [], object()],
}
MAKERS = {**{kind: lambda kind=kind, **k: make(kind, **k) for kind in KINDS}, 'raw': make_raw, 'null': None}


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('kind', MAKERS)
@pytest.mark.parametrize('name', NONSENSE)
def test_nonsense_is_refused_by_name(kind, name, training):
    encoder = TinyEncoder()
    conditioner = NullConditioner((6,)) if kind == 'null' else MAKERS[kind](encoders=[encoder])
    conditioner.train(training)
    for value in NONSENSE[name]:
        given = {name: value} if name in ('texts', 'text_embeds') else {'texts': TEXTS, name: value}
        with pytest.raises(CFGError, match=name):
            conditioner(**given)
    assert encoder.calls == 0


def test_annealed_against_nonsense():
    prepared = make('film').prepare(TEXTS)
    for name, values in {'samples': [0, -1, 'a', 1.5, True], 'generator': [5, 'a', torch.ones(1)]}.items():
        for value in values:
            with pytest.raises(ConfigError, match=f'annealed: {name}'):
                prepared.annealed(0.2, **{name: value})
    with pytest.raises(ConfigError, match='annealed: samples=5 is for a single text, but there are 3'):
        prepared.annealed(0.2, samples=5)


def test_types_and_origins_of_a_decorated_class():
    with pytest.raises(ConfigError, match=r"text_condition_type is one of film, .* but got \['film'\]"):
        build(['film'])
    for origins in (5, 'x', [5]):
        with pytest.raises(ConfigError, match='the encoders of a saved model are a list of what as_json returned'):
            build(text_condition_origins=origins)
