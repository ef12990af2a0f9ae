"""A conditioner that reads the guidance scale: nothing changes until it has learned, and then one pass answers any scale."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from classifier_free_guidance_pytorch import PooledEmbeddingReturner, guidance, text_conditioned
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from tests.clients.test_compile import Exported, net
from tests.conditioners.making import noise, randomised
from tests.decorator.models import TEXTS, build
from tests.releases import NO_PREPARED_RAW, OLDER_TORCH
from tests.tiny_models import TinyEncoder

KINDS = ('film', 'attention', 'concat', 'raw')
SCALES = torch.tensor([1.0, 2.0, 3.5])


def learned(kind='film', high=4.0, **arguments):
    """A model with random weights, of the scale input too, that has learned the scales 1 to `high`."""
    model = build(kind, text_condition_reads_scale=True, **arguments)
    model.text_conditioner.learn_scales(torch.tensor([1.0, high]))
    return model.eval()


@pytest.fixture
def x():
    return noise(3, 6)


@pytest.mark.parametrize('kind', KINDS)
def test_a_trained_model_starts_as_it_was(kind, x):
    plain = build(kind)
    model = build(kind, text_condition_reads_scale=True)
    assert {*model.state_dict()} - {*plain.state_dict()} == {n for n in model.state_dict() if '.scale_input.' in n} != set()
    model.load_state_dict(plain.state_dict())  # as it is, and strictly
    for scale in (0.0, 1.0, 3.0, SCALES):
        assert torch.equal(model(x, texts=TEXTS, cond_scale=scale), plain(x, texts=TEXTS, cond_scale=scale))
    assert model.passes == plain.passes  # and it guides in two passes still
    model.train(), plain.train()
    own = model(x, texts=TEXTS, cond_scale=SCALES, cond_drop_prob=0.0)
    assert torch.equal(own, plain(x, texts=TEXTS, cond_drop_prob=0.0))


@pytest.mark.parametrize('kind', KINDS)
def test_one_pass_and_every_sample_reads_its_own_scale(kind, x):
    model = learned(kind)
    model.passes = 0
    together = model(x, texts=TEXTS, cond_scale=SCALES)
    assert model.passes == 1
    for i, scale in enumerate(SCALES.tolist()):
        alone = model(x, texts=TEXTS, cond_scale=scale)[i]
        torch.testing.assert_close(together[i], alone)
    assert model.passes == 4
    assert not torch.allclose(together[2], model(x, texts=TEXTS, cond_scale=2.0)[2])


@pytest.mark.parametrize('kind', KINDS)
def test_scale_one_is_the_condition_and_zero_the_null(kind, x):
    model = learned(kind)
    cond = model(x, texts=TEXTS)
    two = guidance.CFG()
    assert torch.equal(cond, model(x, texts=TEXTS, cond_scale=1.0, guidance=two))
    torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=torch.ones(3)), cond)
    assert torch.equal(model(x, texts=TEXTS, cond_scale=0.0), model(x, texts=TEXTS, cond_scale=0.0, guidance=two))
    model.passes = 0
    guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=two)  # a rule by name makes its passes
    assert model.passes == 2
    torch.testing.assert_close(guided, torch.lerp(model(x, texts=TEXTS, cond_scale=0.0), cond, 3.0))


@pytest.mark.parametrize('kind', KINDS)
def test_the_scale_enters_after_prepare(kind, x):
    model = learned(kind)
    prepared = model.prepare(TEXTS)
    for scale in (1.0, 2.0, SCALES):
        expected = model(x, texts=TEXTS, cond_scale=scale)
        torch.testing.assert_close(model(x, text_condition=prepared, cond_scale=scale), expected)
    shared = model.prepare(TEXTS[:1])
    expected = model(x, texts=TEXTS[:1] * 3, cond_scale=SCALES)
    torch.testing.assert_close(model(x, text_condition=shared, cond_scale=SCALES), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_batched_with_the_null(kind, x):
    model = learned(kind, **({'text_condition_pad_to': 12} if kind == 'raw' else {}))
    one_by_one = model(x, texts=TEXTS, cond_scale=SCALES, return_unconditioned=True)
    model.batches.clear()
    joined = model(x, texts=TEXTS, cond_scale=SCALES, return_unconditioned=True, cfg_batched=True)
    assert model.batches == [6]
    torch.testing.assert_close(joined, one_by_one)
    torch.testing.assert_close(joined[0], model(x, texts=TEXTS, cond_scale=SCALES))
    torch.testing.assert_close(joined[1], model(x, texts=TEXTS, cond_scale=0.0))


def test_samples_that_share_a_text_have_scales_of_their_own():
    model, x, scales = learned('film'), noise(6, 6), torch.linspace(1, 4, 6)
    expected = model(x, texts=[text for text in TEXTS for _ in range(2)], cond_scale=scales)
    torch.testing.assert_close(model(x, texts=TEXTS, num_samples_per_text=2, cond_scale=scales), expected)
    torch.testing.assert_close(model(x, texts=TEXTS, repeat_batch=2, cond_scale=scales), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_one_graph_over_scales(kind):
    if kind == 'raw' and OLDER_TORCH:
        pytest.skip(NO_PREPARED_RAW)
    model = net(kind, text_condition_reads_scale=True)
    model.text_conditioner.learn_scales(torch.tensor([1.0, 4.0]))
    prepared = model.eval().prepare(TEXTS)  # `eval` reads what was learned, which a graph cannot
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for step, scale in enumerate((SCALES, SCALES + 0.3, torch.ones(3))):
        x = noise(3, 6, seed=step)
        expected = model(x, text_condition=prepared, cond_scale=scale)
        torch.testing.assert_close(compiled(x, text_condition=prepared, cond_scale=scale), expected)
    assert counter.frame_count == 1


def test_what_was_learned_is_saved_copied_and_averaged(x):
    model = learned()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build(text_condition_reads_scale=True)
    other.load_state_dict(torch.load(file))
    average = torch.optim.swa_utils.AveragedModel(build(text_condition_reads_scale=True))
    average.update_parameters(model)
    for same in (other, copy.deepcopy(model), average.module.eval(), copy.deepcopy(model).double().float()):
        assert same.text_conditioner.learned_scales == (1.0, 4.0)
        same.passes = 0
        torch.testing.assert_close(same(x, texts=TEXTS, cond_scale=3.0), model(x, texts=TEXTS, cond_scale=3.0))
        assert same.passes == 1
    other.load_state_dict(build().state_dict())
    assert other.text_conditioner.learned_scales is None


def test_parts_of_a_module_of_several_kinds(x):
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    at = {'0': 'film', '1': 'attention'}
    model = randomised(text_conditioned(net, at, example=x, model_types=[TinyEncoder()], reads_scale=True)).eval()
    model.text_conditioner.learn_scales(torch.tensor([1.0, 4.0]))
    ran = []
    net[2].register_forward_hook(lambda *_: ran.append(1))
    together = model(x, texts=TEXTS, cond_scale=SCALES)
    assert len(ran) == 1
    torch.testing.assert_close(together[1], model(x, texts=TEXTS, cond_scale=2.0)[1])
    torch.testing.assert_close(model(x, text_condition=model.prepare(TEXTS), cond_scale=SCALES), together)


def test_tokens_without_a_pooled_feature_and_pooled_features_alone(x):
    tokens = build('raw', encoder=TinyEncoder(dim_pooled=0), text_condition_reads_scale=True)
    pooled = build('film', encoder=TinyEncoder(), text_condition_reads_scale=True)
    for model in (tokens, pooled):
        model.text_conditioner.learn_scales(torch.tensor([1.0, 4.0]))
        together = model.eval()(x, texts=TEXTS, cond_scale=SCALES)
        torch.testing.assert_close(together[1], model(x, texts=TEXTS, cond_scale=2.0)[1])


def test_one_vector_for_each_text():
    returner = randomised(PooledEmbeddingReturner(dim_latent=5, model_types=[TinyEncoder()], reads_scale=True)).eval()
    branch = returner.branch(tuple(TEXTS))
    scaled = returner.at_scale(branch, SCALES)
    assert torch.equal(scaled.text_cond.pooled, scaled.text_cond.embed)
    torch.testing.assert_close(scaled.text_cond.pooled[0], branch.text_cond.pooled[0])  # at the scale 1
    assert not torch.allclose(scaled.text_cond.pooled[1], branch.text_cond.pooled[1])


def test_every_parameter_has_a_gradient_without_a_scale(x):
    model = build(training=True, text_condition_reads_scale=True)
    model(x, texts=TEXTS).sum().backward()
    assert [name for name, weight in model.text_conditioner.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ('scale', 'sentence'),
    [
        (5.0, 'cond_scale is 5, but this model has learned the guidance scales 1 to 4'),
        (-1.0, 'cond_scale is -1, but'),
        (torch.tensor([0.0, 1.0, 2.0]), 'cond_scale is 0 to 2, but'),
    ],
)
def test_scales_that_were_not_learned(scale, sentence, x):
    with pytest.raises(ConfigError, match=sentence):
        learned()(x, texts=TEXTS, cond_scale=scale)


def test_what_one_pass_cannot_do_is_refused(x):
    model = learned()
    with pytest.raises(ConfigError, match='in which negative texts have no part'):
        model(x, texts=TEXTS, negative_texts=['a dog'], cond_scale=2.0)
    with pytest.raises(ShapeError, match=r'one scale for each sample, but got cond_scale of shape \(3, 6\)'):
        model(x, texts=TEXTS, cond_scale=torch.full((3, 6), 2.0))
    with pytest.raises(UsageError, match='reads no guidance scale: build it with reads_scale=True'):
        build()(x, texts=TEXTS, cond_scale=2.0, guidance=guidance.Learned(1.0, 4.0))
    with pytest.raises(UsageError, match='is for sampling'):
        build(training=True)(x, texts=TEXTS, cond_scale=2.0)
    with pytest.raises(ConfigError, match='every scale is above 0, but got -2'):
        learned().train()(x, texts=TEXTS, cond_scale=-2.0)
    with pytest.raises(ConfigError, match='in training cond_scale is a number or one for each sample, but got the schedule'):
        learned().train()(x, texts=TEXTS, cond_scale=guidance.constant(2.0))


@pytest.mark.parametrize('kind', ['film', 'concat'])
def test_exported(kind):
    model = net(kind, text_condition_reads_scale=True)
    model.text_conditioner.learn_scales(torch.tensor([1.0, 4.0]))
    step, embeds = Exported(model).eval(), model.embed_texts(TEXTS)
    with torch.no_grad():
        program = torch.export.export(step, (noise(3, 6), embeds, SCALES))
        x, scale = noise(3, 6, seed=5), SCALES * 0.9 + 0.1
        torch.testing.assert_close(program.module()(x, embeds, scale), step(x, embeds, scale))
