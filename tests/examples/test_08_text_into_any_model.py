"""Digits with captions: the network is not changed by what is added, only that learns, and the script runs."""

import pytest
import torch

pytest.importorskip('sklearn')

EXAMPLE = '08_text_into_any_model'


def test_the_world_of_digits():
    from cfg_demo.digits import Reader, WordEncoder, captioned_digits

    pictures, captions = captioned_digits()
    assert pictures.shape == (1797, 64)
    assert -1 <= pictures.min() < pictures.max() <= 1
    assert len({caption.split()[-1] for caption in captions}) == 10
    assert {caption.split()[1] for caption in captions} == {'thin', 'handwritten', 'bold'}
    assert Reader().share(pictures, captions) > 0.98
    assert Reader().share(pictures, captions[::-1]) < 0.2
    encoding = WordEncoder().encode(['a bold seven', 'a', ''])
    assert encoding.mask.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert torch.equal(encoding.tokens[1, 0], encoding.tokens[0, 0])


def test_only_what_was_added_learns(example):
    from classifier_free_guidance_pytorch import text_conditioned

    torch.manual_seed(0)
    net, inputs = example.Denoiser(dim=16, depth=2), (torch.randn(2, 64), torch.rand(2))
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    model = text_conditioned(net, 'blocks.*', example=inputs, model_types=example.WordEncoder())
    pictures, captions = example.captioned_digits()
    example.train(model.only_text_trains(), pictures[:64], 2, model.encode_texts(captions[:64]), batch=8)
    after = net.state_dict()
    torch.testing.assert_close({name: after[name] for name in before}, before, rtol=0, atol=0)
    assert not torch.equal(model(*inputs, texts=['a bold seven']), model(*inputs))


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(pretraining=2, steps=2, each=2, out=tmp_path / 'new' / 'digits.png')
    assert (tmp_path / 'new' / 'digits.png').stat().st_size > 5_000
    assert list(shares) == list(example.SCALES)
