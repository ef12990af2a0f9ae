"""Small decorated models that count their forward passes."""

from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from tests.conditioners.making import randomised
from tests.tiny_models import TinyEncoder

KINDS = ('film', 'attention', 'concat', 'raw', 'null')
TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle']


@classifier_free_guidance_class_decorator
class Denoiser(nn.Module):
    """Reads everything a forward can be handed: callables, raw embeddings, other tensors and options."""

    def __init__(self, dim=6):
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.read_text = nn.Linear(12, dim)
        self.passes = 0
        self.batches = []

    def forward(self, x, cond_fns, times=None, *, raw_text_cond, extra=None):
        self.passes += 1
        self.batches.append(len(x))
        h = self.inner(x)
        for condition in cond_fns:
            h = condition(h)
        embed, mask = raw_text_cond
        if mask is not None:
            h = h + self.read_text((embed * mask.unsqueeze(-1)).sum(dim=1))
        if times is not None:
            h = h + times.view(-1, 1)
        if extra is not None:
            h = h + sum(extra['added']) * extra['factor']
        return h.tanh()


def build(kind='film', cls=Denoiser, encoder=None, *, training=False, **arguments):
    """A decorated model with random weights; its encoder counts its calls in `encoder.calls`."""
    encoder = encoder or TinyEncoder()
    given = {'text_condition_hidden_dims': (6,), 'text_condition_model_types': [encoder], **arguments}
    if kind == 'attention':
        given = {'text_condition_attn_heads': 2, 'text_condition_attn_dim_head': 4, **given}
    model = randomised(cls(text_condition_type=kind, **given))
    model.encoder = encoder
    return model.train(training)
