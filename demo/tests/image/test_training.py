"""Training: each part of a step against its formula, and a resumed run against one that was never interrupted."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict

import pytest
import torch

from cfg_demo.image import checkpoint
from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.settings import MODEL_FILE, OPTIMIZERS, PREDICTIONS, TRAINING_FILE
from cfg_demo.image.training import Trainer, train
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.image.tiny import TEXTS, pictures, same_state, short_training, tiny_settings

CAPTIONS = [*TEXTS, 'one purple heart']


def trainer(model=None, **options) -> Trainer:
    return Trainer(tiny_settings(**(model or {})), short_training(**options))


def batch(step: int):
    return pictures(4, seed=step), CAPTIONS


def learned(one: Trainer, steps) -> Trainer:
    for step in steps:
        one.learn(*batch(step))
    return one


class Spy:
    """What a network was called with."""

    def __init__(self, model) -> None:
        self.calls = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs):
        self.calls.append((*args, kwargs))

    @property
    def drops(self):
        return torch.stack([kwargs['cond_drop_prob'] for *_, kwargs in self.calls])


# --- a step ---


@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_the_loss_is_the_distance_to_the_target_of_what_the_network_saw(prediction):
    one = trainer({'prediction': prediction})
    learned(one, range(2))  # away from the start, where it predicts nothing
    spy = Spy(one.model)
    frozen = {name: weight.clone() for name, weight in one.model.state_dict().items()}
    loss = one.learn(*batch(7))
    ((noisy, times, kwargs),) = spy.calls
    assert kwargs['texts'] == CAPTIONS
    images = batch(7)[0] * 2 - 1
    after = {name: weight.clone() for name, weight in one.model.state_dict().items()}
    one.model.load_state_dict(frozen)
    with torch.no_grad():
        predicted = one.model(noisy, times, **kwargs)
    if prediction == 'flow':
        share = times[:, None, None, None]
        target = (noisy - (1 - share) * images) / share - images  # what was added, less what it was added to
    else:
        kept = one.diffusion.scheduler('ddpm').alphas_cumprod[(times * 999).long()][:, None, None, None]
        noise = (noisy - kept.sqrt() * images) / (1 - kept).sqrt()
        target = noise if prediction == 'epsilon' else kept.sqrt() * noise - (1 - kept).sqrt() * images
    assert loss == pytest.approx((predicted - target).square().mean().item(), rel=1e-3)
    assert any(not torch.equal(after[name], frozen[name]) for name in frozen)


def test_noise_and_times_differ_by_step_and_seed():
    seen = []
    for seed in (0, 1):
        one = trainer(seed=seed)
        spy = Spy(one.model)
        for _ in range(2):
            one.learn(*batch(0))
        seen += [(noisy, times) for noisy, times, _ in spy.calls]
    for index, (noisy, times) in enumerate(seen):
        for other_noisy, other_times in seen[:index]:
            assert not torch.equal(times, other_times)
            assert not torch.equal(noisy, other_noisy)


def test_times_dwell_where_they_are_asked_to():
    one = trainer(time_mean=3.0, time_spread=0.1)
    spy = Spy(one.model)
    one.learn(*batch(0))
    ((_, times, _),) = spy.calls
    assert (times.logit() - 3).abs().max() < 0.6


def test_captions_are_dropped_one_by_one_at_their_rate():
    one = trainer(cond_drop_prob=0.3)
    drops = torch.stack([one._drop(50, torch.Generator().manual_seed(step)) for step in range(40)])
    assert set(drops.unique().tolist()) == {0.0, 1.0}
    assert abs(drops.mean() - 0.3) < 0.04
    assert drops.mean(1).min() > 0.0  # never all or none of fifty


def test_captions_are_dropped_together_at_their_rate():
    one = trainer(cond_drop_prob=0.3, dropout='batch')
    drops = torch.stack([one._drop(4, torch.Generator().manual_seed(step)) for step in range(400)])
    assert set(drops.mean(1).tolist()) == {0.0, 1.0}
    assert abs(drops.mean() - 0.3) < 0.07


@pytest.mark.parametrize('dropout', ['sample', 'batch'])
def test_the_network_is_told_whom_to_drop(dropout):
    one = trainer(cond_drop_prob=0.5, dropout=dropout)
    spy = Spy(one.model)
    learned(one, range(6))
    assert spy.drops.shape == (6, 4)
    assert set(spy.drops.unique().tolist()) == {0.0, 1.0}
    mixed = ((spy.drops.mean(1) > 0) & (spy.drops.mean(1) < 1)).any()
    assert mixed == (dropout == 'sample')


@pytest.mark.parametrize('condition', ['film', 'attention', 'concat'])
def test_a_dropped_caption_is_not_read(condition):
    def losses(drop, captions):
        one = trainer({'condition': condition}, cond_drop_prob=drop, learning_rate=0.1)
        return [one.learn(pictures(4, seed=step), captions) for step in range(4)]

    assert losses(1.0, CAPTIONS) == losses(1.0, CAPTIONS[::-1])
    assert losses(0.0, CAPTIONS) != losses(0.0, CAPTIONS[::-1])


@pytest.mark.parametrize('steps', [10, 100])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_the_rate_rises_along_a_line_and_falls_along_a_cosine(optimizer, steps):
    one = trainer(steps=steps, warm_up=4, optimizer=optimizer, learning_rate=0.01)
    peaks = [group['initial_lr'] for each in one._optimizers for group in each.param_groups]
    assert peaks == (pytest.approx([0.01, 0.0015]) if optimizer == 'muon' else [0.01])
    for step in range(6):
        one.learn(*batch(step))
        share = min(1, (step + 1) / 4) * (1 + math.cos(math.pi * step / steps)) / 2
        rates = [group['lr'] for each in one._optimizers for group in each.param_groups]
        assert rates == pytest.approx([peak * share for peak in peaks])


@pytest.mark.parametrize('decay', [0.0, 0.3, 0.999])
def test_the_average_is_a_loop(decay):
    one = trainer(ema_decay=decay)
    expected = {}
    for step in range(5):
        one.learn(*batch(step))
        kept = min(decay, (1 + step) / (10 + step)) if step else 0.0
        for name, weight in one.model.named_parameters():
            before = expected.get(name, torch.zeros_like(weight, dtype=torch.float64))
            expected[name] = kept * before + (1 - kept) * weight.detach().double()
    for name, weight in one.average.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-4, atol=1e-6)
    assert not one.average.training
    assert one.model.training


def test_gradients_are_clipped():
    def change(clip):
        one = trainer(optimizer='adamw', clip=clip)
        seen = []
        original = one._optimizers[0].step

        def step(*args, **kwargs):
            seen.append(math.sqrt(sum(p.grad.square().sum().item() for p in one.model.parameters() if p.grad is not None)))
            return original(*args, **kwargs)

        one._optimizers[0].step = step
        learned(one, range(2))
        return seen

    free, clipped = change(1e6), change(1e-3)
    assert min(free) > 1e-2
    assert clipped == pytest.approx([1e-3] * 2, rel=1e-2)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'float16'])
def test_every_precision_learns(precision):
    one = trainer(steps=30, precision=precision, learning_rate=0.02)
    seen = []
    one.model.write.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    losses = [one.learn(torch.full((4, 3, 16, 16), 0.8), CAPTIONS) for _ in range(6)]
    assert set(seen) == {getattr(torch, precision)}
    assert sum(losses[-2:]) < sum(losses[:2])
    assert {parameter.dtype for parameter in one.model.parameters()} == {torch.float32}


def test_small_gradients_of_half_precision_are_scaled_also_on_a_cpu():
    one = trainer(precision='float16')
    assert one._scaler.is_enabled()
    one._scaler.load_state_dict({**one._scaler.state_dict(), 'scale': 2.0**14})
    one.learn(*batch(0))
    before, after = one._scaler.get_scale(), learned(trainer(), [0])
    assert before == 2.0**14  # the gradients were finite, and are what they are without a scale
    for weight, expected in zip(one.model.parameters(), after.model.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=5e-2)


@pytest.mark.parametrize('network', ['unet', 'transformer'])
def test_a_run_depends_on_its_seed_alone(network):
    first = learned(trainer({'network': network}), range(2))
    torch.rand(5)
    assert same_state(first.model, learned(trainer({'network': network}), range(2)).model)
    assert not same_state(first.model, learned(trainer({'network': network}, seed=1), range(2)).model)


# --- saving and going on ---


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('options', [{}, {'dropout': 'batch', 'cond_drop_prob': 0.5}])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(optimizer, options, tmp_path):
    options = {'steps': 6, 'optimizer': optimizer, 'warm_up': 2, **options}
    whole = learned(trainer(**options), range(6))
    first = learned(trainer(**options), range(3))
    first.save(tmp_path)
    second = trainer(**options)
    second.resume(tmp_path)
    assert second.step == 3
    learned(second, range(3, 6))
    assert second.losses == whole.losses
    assert same_state(whole.model, second.model)
    assert same_state(whole.average, second.average)
    second.save(tmp_path)
    (tmp_path / 'whole').mkdir()
    whole.save(tmp_path / 'whole')
    for name in (MODEL_FILE, TRAINING_FILE):
        assert (tmp_path / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


def test_what_is_saved_is_the_average(tmp_path):
    one = learned(trainer(), range(3))
    one.save(tmp_path)
    model, settings = load_model(tmp_path / MODEL_FILE)
    assert settings == tiny_settings()
    assert same_state(model, one.average)
    assert not same_state(model, one.model)


@pytest.mark.parametrize(
    ('model', 'options', 'told'),
    [
        ({}, {'seed': 1}, 'seed was 0 and is 1'),
        ({}, {'steps': 9}, 'steps was 4 and is 9'),
        ({}, {'optimizer': 'adamw'}, "optimizer was 'muon' and is 'adamw'"),
        ({'condition': 'film'}, {}, "condition was 'attention' and is 'film'"),
        ({'prediction': 'v'}, {'batch_size': 2}, "prediction was 'flow' and is 'v', batch_size was 4 and is 2"),
    ],
)
def test_other_settings_cannot_go_on(model, options, told, tmp_path):
    trainer().save(tmp_path)
    path = str(tmp_path / TRAINING_FILE)
    with pytest.raises(ConfigError) as refused:
        trainer(model, **options).resume(tmp_path)
    sentence = f'{path!r} cannot be resumed with other settings: {told}. Pass the same, or another folder'
    assert str(refused.value) == sentence


def test_training_can_begin_with_a_trained_model(tmp_path):
    taught = learned(trainer(), range(2))
    taught.save(tmp_path)
    one = trainer(seed=5)
    one.start_from(tmp_path / MODEL_FILE)
    assert same_state(one.average, taught.average)
    assert same_state(one.model, taught.average)
    assert one.step == 0
    with pytest.raises(ConfigError, match='belongs to a model of another configuration'):
        trainer({'condition': 'film'}).start_from(tmp_path / MODEL_FILE)


def test_a_model_can_grow_out_of_one_with_fewer_layers(tmp_path):
    smaller = learned(trainer(), range(2)).average.state_dict()
    layer = {name: smaller.pop(name) for name in list(smaller) if name.startswith('carry.')}
    checkpoint.write(tmp_path / MODEL_FILE, smaller, {})
    one = trainer()
    fresh = {name: one.model.state_dict()[name].clone() for name in layer}
    one.start_from(tmp_path / MODEL_FILE)
    begun = one.model.state_dict()
    assert all(torch.equal(begun[name], weight) for name, weight in {**smaller, **fresh}.items())
    with pytest.raises(ConfigError, match=r'of another configuration: 2 of its \d+ weights do not fit, such as carry\.bias'):
        load_model(written(tmp_path, smaller))


def written(folder, weights):
    path = folder / 'lacking.safetensors'
    checkpoint.write(path, weights, {'model': asdict(tiny_settings())})
    return path


def test_a_folder_without_a_run_cannot_go_on(tmp_path):
    with pytest.raises(ConfigError, match=r'^there is no checkpoint .*: pass the training\.safetensors that a training run has'):
        trainer().resume(tmp_path)


def test_a_file_of_another_kind_cannot_go_on(tmp_path):
    one = trainer()
    checkpoint.save_model(one.average, one.model_settings, tmp_path / TRAINING_FILE)
    with pytest.raises(ConfigError, match='cannot be resumed with other settings: '):
        one.resume(tmp_path)
    checkpoint.write(tmp_path / TRAINING_FILE, {}, {'settings': one._identity(), 'step': 1, 'losses': [1.0], 'scale': {}})
    with pytest.raises(ConfigError, match='belongs to a model of another configuration'):
        one.resume(tmp_path)


def test_watchers_are_told_after_every_step(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    one, told = trainer(), []
    one.learn(*batch(0))
    train(one, [batch(step) for step in range(1, 4)], [lambda who, loss: told.append((who is one, who.step, loss))])
    assert told == [(True, step + 1, one.losses[step]) for step in range(1, 4)]
    shown = capsys.readouterr().err
    assert '4/4' in shown
    assert 'loss=' in shown
    train(one, [], progress=False)
    assert capsys.readouterr().err == ''
