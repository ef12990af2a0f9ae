"""Guidance learned: targets against passes made by hand, losses against their formulas, and every refusal by its sentence."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance, text_conditioned
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import skip_layers
from classifier_free_guidance_pytorch.training import distillation_loss, guidance_free_loss, guidance_free_target, guided_target
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, build
from tests.tiny_models import TinyEncoder

KINDS = ('film', 'attention', 'concat', 'raw')
SCALES = torch.tensor([1.5, 2.0, 3.5])


def student(kind='film', **arguments):
    return build(kind, training=True, text_condition_reads_scale=True, **arguments)


@pytest.fixture
def x():
    return noise(3, 6)


RULES = {
    'cfg': (guidance.CFG(), {}),
    'apg': (guidance.APG(norm=0.5), {}),
    'rescale': (guidance.CFG().then(guidance.rescale_to_cond(0.7)), {}),
    'cfg-zero': (guidance.CFGZeroStar(), {}),
    'in a space': (guidance.APG().in_x0('flow'), {'guidance_kwargs': {'sigma': torch.tensor([0.2, 0.5, 0.9])}}),
    'zero steps': (guidance.CFGZeroStar(0.3), {'guidance_kwargs': {'progress': torch.tensor([0.1, 0.5, 0.9])}}),
    'negatives': (guidance.CFG(), {'negative_texts': ['a dog']}),
    'perp-neg': (guidance.PerpNeg(0.5), {'negative_texts': ['a dog']}),
    'weak': (guidance.CFG() + guidance.Weak(0.8), {'weak': skip_layers('inner')}),
}


@pytest.mark.parametrize('name', RULES)
def test_the_target_of_a_rule_is_what_the_teacher_answers(name, x):
    rule, more = RULES[name]
    teacher = build()
    target = guided_target(teacher, x, texts=TEXTS, cond_scale=SCALES, guidance=rule, **more)
    expected = teacher(x, texts=TEXTS, cond_scale=SCALES, guidance=rule, **more)
    assert torch.equal(target, expected)
    assert not target.requires_grad
    one = student()
    loss = distillation_loss(one, teacher, x, texts=TEXTS, cond_scale=SCALES, guidance=rule, **more)
    own = one(x, texts=TEXTS, cond_scale=SCALES, cond_drop_prob=0.0)
    torch.testing.assert_close(loss, F.mse_loss(own, expected))


def test_samples_count_as_much_as_their_weights_say(x):
    """By hand, one sample at a time; equal weights of 1 are none."""
    teacher, one, weight = build(), student(), torch.tensor([1.0, 0.0, 2.5])
    own = one(x, texts=TEXTS, cond_scale=SCALES, cond_drop_prob=0.0)
    wanted = teacher(x, texts=TEXTS, cond_scale=SCALES)
    alone = torch.stack([F.mse_loss(own[i], wanted[i]) for i in range(3)])
    call = {'texts': TEXTS, 'cond_scale': SCALES}
    loss = distillation_loss(one, teacher, x, **call, sample_weight=weight)
    torch.testing.assert_close(loss, (alone[0] + 2.5 * alone[2]) / 3)
    for weighting in ('gft', 'mg'):
        free = {**call, 'target': wanted, 'weighting': weighting, 'cond_drop_prob': 0.0}
        losses = [guidance_free_loss(one, x, **free, sample_weight=row) for row in torch.eye(3)]
        torch.testing.assert_close(sum(losses), guidance_free_loss(one, x, **free))
        loss = guidance_free_loss(one, x, **free, sample_weight=weight)
        torch.testing.assert_close(loss, (weight * torch.stack(losses)).sum())


@pytest.mark.parametrize('weight', [2.0, [1.0, 2.0, 3.0], torch.ones(3, 1), torch.ones(3, dtype=torch.bool)])
def test_weights_that_are_none_of_samples_are_refused(weight, x):
    sentence = r'sample_weight is one real number for each sample, a tensor \(b,\), but got'
    with pytest.raises(ConfigError, match=sentence):
        distillation_loss(student(), build(), x, texts=TEXTS, cond_scale=SCALES, sample_weight=weight)
    with pytest.raises(ConfigError, match=sentence):
        guidance_free_loss(student(), x, target=x, texts=TEXTS, cond_scale=SCALES, sample_weight=weight)


def test_weights_of_another_number_are_refused(x):
    sentence = 'sample_weight has 2 numbers, but the prediction has 3 samples'
    with pytest.raises(ShapeError, match=sentence):
        distillation_loss(student(), build(), x, texts=TEXTS, cond_scale=SCALES, sample_weight=torch.ones(2))


def test_an_interval_is_learned_by_the_noise_level(x):
    teacher, one, sigma = build(), student(), torch.tensor([0.2, 0.5, 0.9])
    at_step = torch.where(sigma <= 0.5, SCALES, 1.0)
    loss = distillation_loss(one, teacher, x, texts=TEXTS, cond_scale=SCALES, teacher_scale=at_step)
    expected = teacher(x, texts=TEXTS, cond_scale=at_step)
    torch.testing.assert_close(loss, F.mse_loss(one(x, texts=TEXTS, cond_scale=SCALES, cond_drop_prob=0.0), expected))
    interval = guidance.interval(2.0, sigma=(0.0, 0.5))
    target = guided_target(teacher, x, texts=TEXTS, cond_scale=interval, guidance_kwargs={'sigma': sigma})
    torch.testing.assert_close(target, teacher(x, texts=TEXTS, cond_scale=torch.where(sigma <= 0.5, 2.0, 1.0)))


@classifier_free_guidance_class_decorator
class Net(nn.Module):
    """A network with a layer behind the condition, without which nothing could make the scale and the text meet."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 12)
        self.read_text = nn.Linear(12, 12)
        self.outer = nn.Sequential(nn.Linear(12, 64), nn.SiLU(), nn.Linear(64, 6))
        self.passes = 0

    def forward(self, x, cond_fns, raw_text_cond):
        self.passes += 1
        embed, mask = raw_text_cond
        h = cond_fns[0](self.inner(x))
        return self.outer(h if mask is None else h + self.read_text((embed * mask.unsqueeze(-1)).sum(dim=1)))


@pytest.mark.parametrize('kind', KINDS)
def test_a_student_learns_its_teacher(kind, x):
    """To a tenth of where it began, at scales that it was not trained on one by one; then one pass is the answer."""
    torch.manual_seed(0)
    dims = {'text_condition_hidden_dims': (12,)}
    teacher = build(kind, Net, **dims)
    one = student(kind, cls=Net, **dims)
    one.load_state_dict(teacher.state_dict())
    optimizer = torch.optim.Adam(one.parameters(), lr=1e-2)

    def error():
        one.eval()
        guided = [one(x, texts=TEXTS, cond_scale=scale) for scale in (1.75, 2.5)]
        wanted = [teacher(x, texts=TEXTS, cond_scale=scale) for scale in (1.75, 2.5)]
        one.train()
        return F.mse_loss(torch.cat(guided), torch.cat(wanted)).item()

    assert error() < 1e-10  # it guides in two passes
    one.text_conditioner.learn_scales(torch.tensor([1.0, 3.0]))
    begin = error()
    for _ in range(100):
        loss = distillation_loss(one, teacher, x, texts=TEXTS, cond_scale=torch.empty(3).uniform_(1, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < begin / 10
    one.passes = 0
    one.eval()(x, texts=TEXTS, cond_scale=2.0)
    assert one.passes == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('scale', [1.5, 4.0])
def test_both_weightings_have_one_gradient_up_to_b(kind, scale, x):
    model = student(kind).double()
    gradients = {}
    for weighting in ('gft', 'mg'):
        arguments = {'target': noise(3, 6, seed=2).double(), 'texts': TEXTS, 'cond_drop_prob': 0.0, 'weighting': weighting}
        loss = guidance_free_loss(model, x.double(), cond_scale=scale, **arguments)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        gradients[weighting] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, materialize_grads=True)])
    gft, mg = gradients['gft'], gradients['mg'] / scale
    assert gft.abs().max() > 1e-3
    assert (gft - mg).abs().max() <= 4e-16 * max(1.0, gft.abs().max().item())


@pytest.mark.parametrize('kind', KINDS)
def test_guidance_free_losses_are_their_formulas(kind, x):
    """The samples that lose their text are ordinary training at the scale 1; the null is that of eval mode, or of the EMA."""
    model, target = student(kind), noise(3, 6, seed=2)
    ema = copy.deepcopy(model).eval()
    with torch.no_grad():
        for weight in ema.parameters():
            weight.mul_(0.9)
    dropped = torch.rand(3, generator=torch.Generator().manual_seed(5)) < 0.5
    assert 0 < dropped.sum() < 3
    for average in (None, ema):
        passes = model.passes
        loss = guidance_free_loss(
            model, x, target=target, texts=TEXTS, cond_scale=SCALES, cond_drop_prob=0.5, ema=average,
            generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        assert model.passes - passes == (2 if average is None else 1)
        assert model.training
        scale = torch.where(dropped, 1.0, SCALES)
        guided = model(x, texts=TEXTS, cond_scale=scale, cond_drop_prob=dropped.float())
        of_null = model if average is None else average
        null = of_null.eval()(x, texts=TEXTS, cond_scale=0.0).detach()
        model.train()
        b = (1 / scale).unsqueeze(1)
        torch.testing.assert_close(loss, (b * guided + (1 - b) * null - target).square().mean())
        torch.testing.assert_close(guided[dropped], null[dropped]) if average is None else None


@pytest.mark.parametrize('kind', KINDS)
def test_the_target_without_a_teacher_lies_beyond_the_data(kind, x):
    """Sample by sample in float64, as in the guided velocity of improved mean flows: `v + (1 - 1/w) * (v_c - v_u)`."""
    model, data = student(kind).double(), noise(3, 6, seed=2).double()
    ema = copy.deepcopy(model).eval()
    with torch.no_grad():
        for weight in ema.parameters():
            weight.mul_(0.9)
    scales = torch.tensor([1.0, 2.0, 3.5])
    found = guidance_free_target(model, x.double(), target=data, texts=TEXTS, cond_scale=scales, ema=ema)
    assert not found.requires_grad
    assert model.training
    null = ema(x.double(), texts=TEXTS, cond_scale=0.0)
    for i, w in enumerate(scales.tolist()):
        guided = model(x.double(), texts=TEXTS, cond_scale=w, cond_drop_prob=0.0)
        torch.testing.assert_close(found[i], data[i] + (1 - 1 / w) * (guided[i] - null[i]), rtol=1e-12, atol=1e-12)
    assert torch.equal(found[0], data[0])  # a sample at the scale 1 is ordinary training
    loss = guidance_free_loss(
        model, x.double(), target=data, texts=TEXTS, cond_scale=scales, cond_drop_prob=0.0, ema=ema, weighting='mg'
    )
    guided = model(x.double(), texts=TEXTS, cond_scale=scales, cond_drop_prob=0.0)
    torch.testing.assert_close(loss, F.mse_loss(guided, found), rtol=1e-12, atol=0)


def test_guided_predictions_are_where_the_target_comes_to_rest():
    """Where data predict `c` on average and the model answers `u + s * (c - u)`, the target is that answer: nothing is left."""
    c, u, s = noise(3, 6, seed=3).double(), noise(3, 6, seed=4).double(), SCALES.double().unsqueeze(1)

    class Answer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, dtype=torch.float64))

        def forward(self, x, cond_fns):
            return self.weight * (u + s * (c - u) if self.training else u)

    answer = classifier_free_guidance_class_decorator(Answer)(
        text_condition_model_types=[TinyEncoder()], text_condition_hidden_dims=(6,), text_condition_reads_scale=True
    )
    found = guidance_free_target(answer.double(), c, target=c, texts=TEXTS, cond_scale=SCALES)
    torch.testing.assert_close(found, u + s * (c - u), rtol=1e-6, atol=1e-6)


def test_a_mean_flow_differentiates_along_the_guided_path(x):
    """`torch.func.jvp` goes through a guided model in training: against central differences in float64."""
    model = student('attention', text_condition_flash=False).double()  # fused kernels have no forward-mode derivative
    x, along = x.double(), noise(3, 6, seed=2).double()

    def answer(x):
        return model(x, texts=TEXTS, cond_scale=2.0, cond_drop_prob=0.0)

    _, slope = torch.func.jvp(answer, (x,), (along,))
    with torch.no_grad():
        differences = (answer(x + 1e-6 * along) - answer(x - 1e-6 * along)) / 2e-6
    torch.testing.assert_close(slope, differences, rtol=1e-6, atol=1e-8)


def test_modes_come_back_as_they_were(x):
    model = student()
    model.inner.eval()
    guidance_free_loss(model, x, target=x, texts=TEXTS, cond_scale=2.0).backward()
    assert model.training
    assert not model.inner.training


def test_what_was_learned_is_what_was_trained_on(x):
    one = student()
    distillation_loss(one, build(), x, texts=TEXTS, cond_scale=torch.tensor([1.5, 2.0, 3.0]))
    guidance_free_loss(one, x, target=x, texts=TEXTS, cond_scale=0.75)
    assert one.text_conditioner.learned_scales == (0.75, 3.0)


def test_wrapped_students_and_averaged_teachers(x):
    teacher = torch.optim.swa_utils.AveragedModel(build()).eval()
    one = student()
    expected = distillation_loss(one, build(), x, texts=TEXTS, cond_scale=2.0)
    torch.testing.assert_close(distillation_loss(torch.nn.DataParallel(one), teacher, x, texts=TEXTS, cond_scale=2.0), expected)


X = noise(3, 6)


def distil(student=None, teacher=None, cond_scale=2.0, **more):
    one = globals()['student']() if student is None else student
    return distillation_loss(one, build() if teacher is None else teacher, X, texts=TEXTS, cond_scale=cond_scale, **more)


def free(model=None, target=X, cond_scale=2.0, **more):
    return guidance_free_loss(student() if model is None else model, X, target=target, texts=TEXTS, cond_scale=cond_scale, **more)


def beyond(model=None, target=X, cond_scale=2.0, **more):
    model = student() if model is None else model
    return guidance_free_target(model, X, target=target, texts=TEXTS, cond_scale=cond_scale, **more)


class Wider(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Linear(6, width)

    def forward(self, x):
        return self.net(x)


def heads():
    """A model of two outputs, as the student or, in eval mode, as the teacher."""

    @classifier_free_guidance_class_decorator
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.write = nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x, cond_fns):
            y = self.write(cond_fns[0](self.read(x)))
            return {'a': y, 'b': 2 * y}

    return student(cls=Heads, text_condition_hidden_dims=(12,))


def wider(width=5):
    return text_conditioned(Wider(width), 'net', example=X, model_types=[TinyEncoder()], reads_scale=True).eval()


@pytest.mark.parametrize(
    ('error', 'sentence', 'call'),
    [
        (ConfigError, 'reads no guidance scale: build the model with', lambda: distil(student=build(training=True))),
        (ConfigError, 'reads no guidance scale: build the model with', lambda: free(build(training=True))),
        (ConfigError, 'reads no guidance scale', lambda: distil(student=build('null', training=True))),
        (ConfigError, 'every scale is above 0, but got 0', lambda: distil(cond_scale=0)),
        (ConfigError, 'every scale is above 0, but got -1.5', lambda: free(cond_scale=-1.5)),
        (ConfigError, 'every scale is above 0', lambda: free(cond_scale=torch.tensor([1.0, 0.0, 2.0]))),
        (ConfigError, 'cond_scale is a number above 0', lambda: distil(cond_scale='2')),
        (ConfigError, 'cond_scale is a number above 0', lambda: free(cond_scale=guidance.constant(2.0))),
        (ShapeError, 'cond_scale is one number for each sample', lambda: distil(cond_scale=torch.ones(3, 6))),
        (ShapeError, '2 values for a batch of 3', lambda: distil(cond_scale=torch.ones(2))),
        (ShapeError, '2 scales for a batch of 3', lambda: free(cond_scale=torch.ones(2))),
        (UsageError, 'the teacher is in training mode', lambda: distil(teacher=build(training=True))),
        (UsageError, 'the model is in eval mode: call model.train', lambda: distil(student=student().eval())),
        (UsageError, 'the model is in eval mode: call model.train', lambda: free(student().eval())),
        (UsageError, 'remembers between the steps', lambda: distil(guidance=guidance.APG(momentum=-0.5))),
        (UsageError, 'remembers between the steps', lambda: distil(guidance=guidance.ReuseDelta(guidance.CFG(), every=2))),
        (ConfigError, 'student is conditioned by a TextConditioner, but the teacher by', lambda: distil(teacher=build('concat'))),
        (ShapeError, r'target has shape \(3, 5\), but the model predicts \(3, 6\)', lambda: free(target=X[:, :5])),
        (ShapeError, r'target has shape \(2, 6\), but the inputs are a batch of 3', lambda: free(target=X[:2])),
        (ConfigError, 'target is what the model predicts', lambda: free(target=None)),
        (ConfigError, 'target is what the model predicts', lambda: beyond(target=None)),
        (ConfigError, 'reads no guidance scale', lambda: beyond(build(training=True))),
        (ConfigError, 'every scale is above 0, but got 0', lambda: beyond(cond_scale=0)),
        (UsageError, 'the model is in eval mode: call model.train', lambda: beyond(student().eval())),
        (ShapeError, r'target has shape \(3, 5\), but the model predicts \(3, 6\)', lambda: beyond(target=X[:, :5])),
        (ShapeError, '2 scales for a batch of 3', lambda: beyond(cond_scale=torch.ones(2))),
        (ShapeError, r'the student predicts \(3, 5\), but the teacher \(3, 6\)', lambda: distil(student=wider().train())),
        (ConfigError, "weighting is 'gft' or 'mg'", lambda: free(weighting='both')),
        (ConfigError, 'cond_drop_prob is one probability', lambda: free(cond_drop_prob=1.5)),
        (UsageError, 'needs a weak pass', lambda: distil(guidance=guidance.Weak(1.0))),
        (UsageError, 'negative texts', lambda: distil(guidance=guidance.PerpNeg(0.5))),
        (ConfigError, 'guides inside cross-attention', lambda: distil(guidance=guidance.NAG())),
        (ConfigError, 'whose forward is decorated or made by text_conditioned', lambda: distil(student=nn.Linear(6, 6))),
        (ConfigError, 'whose forward is decorated', lambda: distil(teacher=nn.Linear(6, 6).eval())),
        (ConfigError, 'whose forward is decorated', lambda: guided_target(nn.Linear(6, 6).eval(), X, cond_scale=2.0)),
        (ConfigError, 'whose forward is decorated', lambda: guided_target(lambda x, **_: x, X, cond_scale=2.0)),
        (ConfigError, 'cond_drop_prob has no part in this loss', lambda: distil(cond_drop_prob=0.3)),
        (ConfigError, 'return_unconditioned asks for two predictions', lambda: distil(return_unconditioned=True)),
        (ConfigError, 'cond_scale is a number above 0', lambda: distil(cond_scale=torch.ones(3, dtype=torch.complex64))),
        (ConfigError, 'cond_scale is a number above 0', lambda: free(cond_scale=torch.ones(3, dtype=torch.bool))),
        (
            ConfigError,
            r"guide=\('a', 'b'\) names 2 entries .* one loss for each",
            lambda: distil(heads(), heads().eval(), guide=('a', 'b')),
        ),
        (ConfigError, r"guide=\['a', 'b'\] names 2 entries", lambda: free(heads(), guide=['a', 'b'])),
        (ConfigError, 'target is .* real numbers.* but got a tensor of torch.int64', lambda: free(target=X.long())),
        (ConfigError, 'generator is a torch.Generator, or None for the global state, but got 3', lambda: free(generator=3)),
        (ShapeError, r'ema predicts \(3, 1\), but the model \(3, 6\)', lambda: free(ema=wider(1))),
    ],
)
def test_refusals(error, sentence, call):
    with pytest.raises(error, match=sentence):
        call()


def test_another_encoder_is_refused(tiny_t5, tiny_bge):
    kinds = [build(training=train, text_condition_model_types=kind, text_condition_reads_scale=True)
             for train, kind in ((True, 't5'), (False, 'bge'))]  # fmt: skip
    with pytest.raises(ConfigError, match='the student reads texts with'):
        distil(*kinds)
