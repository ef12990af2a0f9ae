"""Several samples of one text: `num_samples_per_text`, by itself and with frames in the batch."""

import pytest
import torch

from classifier_free_guidance_pytorch import Part, classifier_free_guidance, guidance
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build
from tests.decorator.test_texts_and_rows import Video
from tests.modules.networks import following, seeded_net

kinds = pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'null'])
EACH = [text for text in TEXTS for _ in range(2)]


@kinds
@pytest.mark.parametrize('batched', [False, True])
@pytest.mark.parametrize('negative', [{}, {'negative_texts': ['grey']}], ids=['', 'negative'])
def test_it_is_each_text_written_twice(kind, batched, negative):
    model, x, call = build(kind), noise(6, 6), {'cond_scale': 3.0, 'cfg_batched': batched, **negative}
    expected = model(x, texts=EACH, **call)
    torch.testing.assert_close(model(x, texts=TEXTS, num_samples_per_text=2, **call), expected)
    torch.testing.assert_close(model(x, text_embeds=model.encode_texts(TEXTS), num_samples_per_text=2, **call), expected)
    prepared = {**call, 'text_condition': model.prepare(TEXTS, negative.get('negative_texts'))}
    prepared.pop('negative_texts', None)
    torch.testing.assert_close(model(x, num_samples_per_text=2, **prepared), expected)
    torch.testing.assert_close(model(x, texts=TEXTS[:1], num_samples_per_text=6), model(x, texts=TEXTS[:1]))
    torch.testing.assert_close(model.bind(texts=TEXTS, num_samples_per_text=2, **call)(x), expected)


@kinds
def test_in_training_each_sample_is_dropped_by_itself(kind):
    model, x = build(kind), noise(6, 6)
    given, null = model(x, texts=EACH), model(x, texts=EACH, cond_scale=0.0)
    model.train()
    patterns = set()
    for _ in range(12):
        drawn = model(x, texts=TEXTS, num_samples_per_text=2, cond_drop_prob=0.5)
        kept = tuple(torch.allclose(drawn[row], given[row], atol=1e-5) for row in range(6))
        assert all(kept[row] or torch.allclose(drawn[row], null[row], atol=1e-5) for row in range(6))
        patterns.add(kept)
    assert any(kept[0] != kept[1] for kept in patterns)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat'])
def test_with_frames_in_the_batch(kind):
    model, video = build(kind, cls=Video), noise(6, 2, 6)
    expected = model(video, texts=EACH, repeat_batch=2, cond_scale=3.0)
    given = model(video, texts=TEXTS, repeat_batch=2, num_samples_per_text=2, cond_scale=3.0)
    torch.testing.assert_close(given, expected)


def test_with_parts_that_fold_frames():
    from tests.modules.test_following import Video

    model = following({'frames': Part(repeat_batch=5), 'whole': None}, seeded_net(Video))
    x, call = noise(6, 5, 6), {'cond_scale': 3.0}
    torch.testing.assert_close(model(x, texts=TEXTS, num_samples_per_text=2, **call), model(x, texts=EACH, **call))


def test_inside_attention():
    model, x = build('attention'), noise(6, 6)
    call = {'guidance': guidance.NAG(), 'cond_scale': 3.0}
    torch.testing.assert_close(model(x, texts=TEXTS, num_samples_per_text=2, **call), model(x, texts=EACH, **call))
    model, video = build('attention', cls=Video), noise(3, 2, 6)
    expected = torch.cat([model(video[row, None], texts=[text], repeat_batch=2, **call) for row, text in enumerate(TEXTS)])
    torch.testing.assert_close(model(video, texts=TEXTS, repeat_batch=2, **call), expected)


def test_what_does_not_fit():
    model = build('film')
    with pytest.raises(
        ShapeError, match=r'3 texts were given for a batch of 4: pass one per sample, .* \(or 2 with num_samples_per'
    ):
        model(noise(4, 6), texts=TEXTS, num_samples_per_text=2)
    for wrong in (0, True, 2.0):
        with pytest.raises(ConfigError, match='num_samples_per_text counts the samples that share a text, at least 1, but got'):
            model(noise(6, 6), texts=TEXTS, num_samples_per_text=wrong)

    class ByItself(torch.nn.Linear):
        @classifier_free_guidance
        def forward(self, x, cond_drop_prob=0.0):
            return super().forward(x)

    with pytest.raises(ConfigError, match='num_samples_per_text is for the callables of a text_conditioner'):
        ByItself(6, 6).eval()(noise(6, 6), num_samples_per_text=2)
