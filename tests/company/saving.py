"""Models that frameworks save, and when two of them are the same."""

import torch

from tests.company.models import arguments, inputs

TEXTS = ['a red circle', 'a small blue square', 'a green triangle above a red circle']
GUIDED = {'texts': TEXTS, 'cond_scale': 3.0}
SETTINGS = [
    {'kind': 'film', 'cond_drop_prob': 0.25, 'text_embed_stem_dim_mult': 3},
    {'kind': 'attention', 'null': 'zeros', 'attn_heads': 3, 'flash': False},
    {'kind': 'concat', 'hidden_dims': (6, 6), 'hiddens_channel_first': (True, False)},
    {'kind': 'film', 'encoder': ['mini', 'mini'], 'cond_drop_prob': (0.1, 0.2)},
    {'kind': 'attention', 'encoder': ('mini',), 'model_kwargs': [{'dtype': torch.float32, 'max_length': 7}]},
]


def settings(**more):
    return arguments(**{'encoder': 'mini', **more})


class Body:
    """What the classes here have in common; a mixin, so that each is decorated by itself."""

    def forward(self, x, cond_fns):
        for condition in cond_fns:
            x = condition(x)
        return self.out(x)


def same(again, model):
    assert type(again) is type(model)
    assert again.depth == model.depth == 3
    ours, theirs = model.text_conditioner, again.text_conditioner
    assert type(ours) is type(theirs)
    for name in ('hidden_dims', 'null', 'hiddens_channel_first', 'dim_latent'):
        assert getattr(theirs, name) == getattr(ours, name), name
    drop_probs = [c.cond_drop_prob if isinstance(c.cond_drop_prob, float) else tuple(c.cond_drop_prob) for c in (ours, theirs)]
    assert drop_probs[0] == drop_probs[1]
    assert [vars(e).get('dtype') for e in theirs.text_models] == [vars(e).get('dtype') for e in ours.text_models]
    assert theirs.max_text_len == ours.max_text_len
    x = inputs()
    torch.testing.assert_close(again.eval()(x, **GUIDED), model(x, **GUIDED), rtol=1e-5, atol=1e-5)
