"""Classifier guidance against the closed form of a mixture, where the exact classifier is known, and the command as a whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfg_demo.cli import build_parser
from cfg_demo.image import classifier, classifier_command
from cfg_demo.image.checkpoint import save_model
from cfg_demo.image.models import build_model
from cfg_demo.image.settings import ModelSettings
from cfg_demo.shapes import HELD_OUT, ShapesDataset, parse
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError


class Mixture:
    """Gaussians in five dimensions, two for each of three classes; velocities and the exact classifier of noisy points."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.means, spreads = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
        self.variances = 0.05 + spreads**2
        self.weights = torch.rand(6, generator=generator, dtype=torch.float64).softmax(0)
        self.classes = torch.tensor([0, 0, 1, 1, 2, 2])

    def log_joint(self, x, times):
        """`log p(x, component)` `(b, 6)` of noisy points `(b, 5, 1, 1)`."""
        x, t = x.flatten(1)[:, None], times[:, None, None]
        spread = torch.sqrt((1 - t) ** 2 * self.variances + t**2)
        return torch.distributions.Normal((1 - t) * self.means, spread).log_prob(x).sum(-1) + self.weights.log()

    def log_likelihood(self, x, times, labels):
        """`log p(class | x)`."""
        joint = self.log_joint(x, times)
        wanted = joint.masked_fill(self.classes != labels[:, None], -torch.inf)
        return wanted.logsumexp(1) - joint.logsumexp(1)

    def velocity(self, x, times, labels=None):
        """`E[eps - x0 | x]`, of one class or of all, with `eps = (x - (1 - t) * x0) / t`: what a perfect flow model predicts."""
        t, joint = times[:, None, None], self.log_joint(x, times)
        if labels is not None:
            joint = joint.masked_fill(self.classes != labels[:, None], -torch.inf)
        shrunk = (1 - t) * self.variances / ((1 - t) ** 2 * self.variances + t**2)
        clean = self.means + shrunk * (x.flatten(1)[:, None] - (1 - t) * self.means)  # per component
        clean = (joint.softmax(1)[..., None] * clean).sum(1)
        return ((x.flatten(1) - clean) / times[:, None])[..., None, None]


MIXTURE = Mixture()
UNREAD = object()


def unconditional(x, times, *, text_condition, cond_scale):
    assert text_condition is UNREAD
    assert cond_scale == 0.0
    return MIXTURE.velocity(x, times)


unconditional.prepare = lambda texts: UNREAD


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-2, 12), time=st.floats(0.02, 0.98))
def test_the_exact_classifier_makes_the_conditional_velocity_and_classifier_free_guidance(seed, scale, time):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(4, 5, 1, 1, generator=generator, dtype=torch.float64)
    times = torch.tensor([time, 0.3, 0.7, time], dtype=torch.float64)
    labels = torch.randint(3, (4,), generator=generator)
    cond, null = MIXTURE.velocity(x, times, labels), MIXTURE.velocity(x, times)
    with torch.no_grad():  # as in a sampler
        bayes = classifier.classifier_guided(unconditional, MIXTURE, labels, 1.0)(x, times)
        guided = classifier.classifier_guided(unconditional, MIXTURE, labels, scale)(x, times)
    torch.testing.assert_close(bayes, cond, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guided, guidance.cfg(cond, null, scale), rtol=1e-9, atol=1e-8)
    assert not guided.requires_grad


def test_it_is_the_formula_of_the_paper_in_the_space_of_noise():
    velocity, gradient, x = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time, scale = 0.4, 2.5
    eps = x + (1 - time) * velocity
    guided_eps = eps - scale * time * gradient
    expected = (guided_eps - x) / (1 - time)

    def energy(noisy):
        return -(gradient * noisy).flatten(1).sum(1)

    guided = guidance.energy_guided(velocity, energy, scale, model='flow', x=x, sigma=time, of='x')
    torch.testing.assert_close(guided, expected)


def test_the_likelihood_is_the_product_of_what_is_known():
    torch.manual_seed(0)
    network, noisy, times = classifier.NoisyClassifier(), torch.randn(3, 3, 16, 16), torch.tensor([0.1, 0.5, 0.9])
    labels = torch.tensor([[0, 7, 2], [2, classifier.UNKNOWN, classifier.UNKNOWN], [0, 1, 3]])
    found = network.log_likelihood(noisy, times, labels)
    for row, likelihood in enumerate(found):
        count, colour, shape = (head.log_softmax(0) for head in network(noisy, times)[row].split(classifier.CLASSES))
        expected = count[labels[row, 0]]
        if labels[row, 0] == 0:
            expected = expected + colour[labels[row, 1]] + shape[labels[row, 2]]
        torch.testing.assert_close(likelihood, expected)


def test_pure_noise_says_nothing_and_what_is_left_of_a_picture_a_little():
    torch.manual_seed(0)
    network, noisy = classifier.NoisyClassifier(), torch.randn(2, 3, 16, 16)
    assert torch.equal(network(noisy, torch.ones(2)), network.prior.expand(2, -1))
    assert not torch.allclose(network(noisy, torch.full((2,), 0.9)), network.prior.expand(2, -1))


def test_labels_are_what_all_things_share():
    kinds = set()
    for sample in ShapesDataset(length=60):
        bodies = sample.layout.bodies
        count, *shared = classifier.labels_of(sample.layout)
        assert count == len(bodies) - 1
        for label, name, names in zip(
            shared, ('colour', 'shape'), (classifier.COLOUR_NAMES, classifier.SHAPE_NAMES), strict=True
        ):
            alike = all(getattr(body, name) == getattr(bodies[0], name) for body in bodies)
            assert label == (names.index(getattr(bodies[0], name)) if alike else classifier.UNKNOWN)
            kinds.add((len(bodies), alike))
    assert kinds == {(1, True), (2, True), (2, False), (3, True), (3, False)}


@pytest.fixture
def run(tmp_path):
    """Run the command with a tiny model, in a folder of its own."""

    def run_command(*options, prediction='flow'):
        torch.manual_seed(0)
        chosen = ModelSettings(network_size='tiny', image_size=16, prediction=prediction)
        save_model(build_model(chosen), chosen, tmp_path / 'model.safetensors')
        files = ('--model', tmp_path / 'model.safetensors', '--classifier', tmp_path / 'new' / 'classifier.safetensors')
        options = (*files, '--out', tmp_path / 'pictures' / 'picture.png', '--pictures', 2, '--steps', 2, *options)
        parsed = build_parser().parse_args(['classifier-guidance', *map(str, options)])
        return parsed.run(parsed)

    return run_command


def test_it_runs_and_prints_and_draws_and_keeps_its_classifier(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classifier_command, 'CLASSIFIER_SCALES', (1.0, 5.0))
    monkeypatch.setattr(classifier_command, 'FREE_SCALES', (2.0,))
    shares = run('--train-steps', 2)
    assert list(shares) == ['unconditional', 'classifier, s = 1', 'classifier, s = 5', 'classifier-free, s = 2']
    assert all(0 <= share <= 1 for share in shares.values())
    table = capsys.readouterr().out.splitlines()
    assert [line[:24].rstrip() for line in table if '%' in line] == list(shares)
    assert (tmp_path / 'pictures' / 'picture.png').read_bytes().startswith(b'\x89PNG')
    monkeypatch.setattr(classifier, 'train', None)  # the second time it is read
    first = (tmp_path / 'pictures' / 'picture.png').read_bytes()
    run('--train-steps', 2)
    assert (tmp_path / 'pictures' / 'picture.png').read_bytes() == first
    assert f'Picture: {tmp_path / "pictures" / "picture-2.png"}' in capsys.readouterr().out
    kept = classifier.load_or_train(tmp_path / 'new' / 'classifier.safetensors', steps=2, seed=0, size=16)
    assert not kept.training
    assert kept.evidence.weight.abs().sum() > 0
    with pytest.raises(ConfigError, match=r"but asked for is a classifier of \{'steps': 3, .*: pass another --classifier"):
        run('--train-steps', 3)


def test_a_classifier_follows_its_seed():
    first, again, other = (classifier.train(steps=2, seed=seed, size=16, batch=4).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first['evidence.weight'], other['evidence.weight'])


def test_another_prediction_is_refused_before_any_work(run, tmp_path):
    with pytest.raises(ConfigError, match=r"that of a flow model, but .* predicts 'epsilon': pass a model"):
        run(prediction='epsilon')
    assert list((tmp_path / 'new').iterdir()) == []


def test_texts_name_one_thing_of_a_pair_seen_in_training_and_labels_say_which():
    texts, labels = classifier_command.asked(60)
    things = [parse(text).things for text in texts]
    assert {len(thing) for thing in things} == {1}
    named = [(thing.colour, thing.shape) for (thing,) in things]
    assert not set(named) & set(HELD_OUT)
    assert len(set(named[:56])) == 56
    pairs = [(classifier.COLOUR_NAMES[colour], classifier.SHAPE_NAMES[shape]) for _, colour, shape in labels.tolist()]
    assert pairs == named
