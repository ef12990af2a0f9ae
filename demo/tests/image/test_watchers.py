"""What looks on while a model trains."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from cfg_demo.image import watchers
from cfg_demo.image.settings import MODEL_FILE, TRAINING_FILE
from cfg_demo.image.training import Trainer
from cfg_demo.image.watchers import DrawSamples, LogToTensorBoard, SaveCheckpoint
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from demo.tests.image.tiny import TEXTS, drawn, short_training, tiny_settings


def at_step(step, steps=10, **more):
    return SimpleNamespace(step=step, settings=SimpleNamespace(steps=steps), **more)


def test_a_run_is_saved_every_so_often_and_at_its_end(tmp_path):
    saved = []
    watch = SaveCheckpoint(tmp_path, every=4)
    for step in range(1, 11):
        watch(at_step(step, save=lambda folder, step=step: saved.append((folder, step))), 0.5)
    assert saved == [(tmp_path, 4), (tmp_path, 8), (tmp_path, 10)]


def test_what_is_saved_is_the_run(tmp_path):
    trainer = Trainer(tiny_settings(), short_training(steps=1))
    trainer.step = 1
    SaveCheckpoint(tmp_path)(trainer, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL_FILE, TRAINING_FILE]


def test_samples_are_of_the_average_from_the_same_noise(tmp_path, monkeypatch):
    trainer = Trainer(tiny_settings(), short_training(steps=10))
    for parameter in trainer.average.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shown = []
    monkeypatch.setattr(watchers, 'save_samples', lambda *given: shown.append(given))
    watch = DrawSamples(tmp_path, TEXTS, every=4, cond_scale=2.0, steps=2)
    before = torch.get_rng_state()
    for trainer.step in range(1, 11):
        watch(trainer, 0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert [title for *_, title in shown] == [f'step {step} of 10, guidance scale 2' for step in (4, 8, 10)]
    path, images, captions, _ = shown[0]
    assert path == tmp_path / 'samples.png'
    assert captions == TEXTS
    assert all(torch.equal(images, others) for _, others, *_ in shown)
    torch.testing.assert_close(images, drawn(trainer.average, scale=2.0), rtol=0, atol=1e-5)
    assert trainer.model.training


def test_samples_are_a_picture(tmp_path):
    trainer = Trainer(tiny_settings(), short_training(steps=1))
    trainer.step = 1
    DrawSamples(tmp_path, TEXTS, steps=1)(trainer, 0.5)
    assert (tmp_path / 'samples.png').read_bytes().startswith(b'\x89PNG')


class Writer:
    """Stands in for TensorBoard's."""

    def __init__(self, folder):
        self.folder, self.written, self.closed = folder, [], False

    def add_scalar(self, *given):
        self.written.append(given)

    def close(self):
        self.closed = True


def test_losses_go_to_tensorboard_and_none_is_left_behind(tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr(watchers, 'find_spec', lambda name: object())
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(watchers.atexit, 'register', at_exit.append)
    watch = LogToTensorBoard(tmp_path)
    for step in (1, 2):
        watch(at_step(step), step / 2)
    assert watch.writer.folder == tmp_path
    assert watch.writer.written == [('loss', 0.5, 1), ('loss', 1.0, 2)]
    assert not watch.writer.closed
    for call in at_exit:
        call()
    assert watch.writer.closed


def test_losses_can_be_read_from_what_tensorboard_writes(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = LogToTensorBoard(tmp_path)
    for step in (1, 2):
        watch(at_step(step), step / 2)
    watch.writer.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars('loss')
    assert [(event.step, event.value) for event in events] == [(1, 0.5), (2, 1.0)]


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(watchers, 'find_spec', lambda name: None)
    with pytest.raises(MissingDependencyError) as refused:
        LogToTensorBoard(tmp_path)
    assert str(refused.value) == '--tensorboard writes for TensorBoard, which is not installed: pip install tensorboard'
