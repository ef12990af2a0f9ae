"""`cfg-demo image` and `cfg-demo train` as users run them: their files, their tables, their one-sentence errors."""

from __future__ import annotations

import pytest
from PIL import Image

from cfg_demo import cli, folders
from cfg_demo.image import checkpoint, scores
from cfg_demo.image.settings import MODEL_FILE, TRAINING_FILE
from cfg_demo.image.training import Trainer
from demo.tests.image.tiny import tiny_model, tiny_settings

SHORT = ['--train-steps', '4', '--batch-size', '4', '--steps', '1', '--scales', '1', '--seeds', '1']


@pytest.fixture(scope='module')
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('model') / MODEL_FILE
    checkpoint.save_model(tiny_model(), tiny_settings(), path)
    return path


@pytest.fixture
def few(monkeypatch):
    """Scores from a handful of pictures."""
    monkeypatch.setattr(scores, 'DIVERSE_PROMPTS', 2)
    monkeypatch.setattr(scores, 'DIVERSE_SEEDS', 2)


def image(model_file, out, *options):
    return cli.main(['image', *options, '--model', str(model_file), '--out', str(out), '--steps', '2'])


def train(out, *options):
    return cli.main(['train', *SHORT, '--out', str(out), *options])


def test_image_writes_a_labelled_grid_and_a_table(model_file, tmp_path, capsys):
    options = ('a red circle', '--scales', '0', '1', '3', '--seeds', '2', '--seed', '5', '--negative', 'a star', '--threads', '1')
    assert image(model_file, tmp_path / 'new' / 'out', *options) == 0
    shown = capsys.readouterr()
    path = tmp_path / 'new' / 'out' / 'image.png'
    with Image.open(path) as picture:
        assert picture.size == pytest.approx(((3 * 1.35 + 0.9) * 110, (2 * 1.35 + 1.5) * 110), abs=1)
    lines = shown.out.strip().splitlines()
    assert lines[0].split() == ['scale', 'all', 'count', 'shape', 'colour', 'readable']
    assert [line.split()[0] for line in lines[1:4]] == ['0', '1', '3']
    assert lines[-1] == f'Picture: {path}'
    assert 'cfg at 3' not in shown.err, 'a bar is for terminals'
    assert [found.name for found in path.parent.iterdir()] == ['image.png']


@pytest.mark.parametrize('options', [['--guidance', 'apg'], ['--sampler', 'dpm++'], ['--guidance', 'pag', '--negative', '']])
def test_image_takes_every_way_to_sample(options, model_file, tmp_path, capsys):
    assert image(model_file, tmp_path, 'a dog on a skateboard', '--scales', '2', '--seeds', '1', *options) == 0
    assert 'the pictures were not checked' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ([''], 'prompt is empty: say what to draw'),
        (['a star', '--scales', 'nan'], 'a guidance scale is a finite number, but scales has nan'),
        (['a star', '--sampler', 'ddim'], "a model that predicts flow is sampled by euler or dpm++, but got 'ddim'"),
        (['a star', '--seeds', '0'], 'seeds is a whole number from 1 to 200, but got 0'),
        (['a star', '--threads', '0'], 'threads counts from 1, but got 0'),
        (['a star', '--device', 'toaster'], "device 'toaster' cannot be used here"),
    ],
)
def test_image_refuses_in_one_sentence(options, sentence, model_file, tmp_path, capsys):
    assert image(model_file, tmp_path / 'out', *options) == 2
    shown = capsys.readouterr().err
    assert shown.startswith('cfg-demo: error: ')
    assert sentence in shown
    assert '%|' not in shown  # no bar: nothing was drawn
    assert not (tmp_path / 'out' / 'image.png').exists()


class DrawnError(Exception):
    """Drawing has begun."""


@pytest.mark.parametrize(
    ('command', 'drawing'),
    [
        (['image', 'a red dog', '--negative', 'a cat'], 'cfg_demo.image.drawing.load_shipped'),
        (['sample', 'a red dog', 'a blue star', '--negative', 'a cat'], 'cfg_demo.image.checkpoint.load_model'),
        (['train', '--prompt', 'a red dog and a cat'], 'cfg_demo.image.drawing.draw'),
    ],
)
def test_words_that_the_model_cannot_know_are_named_before_anything_is_drawn(command, drawing, tmp_path, monkeypatch, capsys):
    def drawn(*_, **__):
        raise DrawnError

    monkeypatch.setattr(drawing, drawn)
    with pytest.raises(DrawnError):
        cli.main([*command, '--out', str(tmp_path)])
    told = capsys.readouterr().err
    assert "warning: the model does not know 'dog'" in told
    assert "'cat'" in told
    assert 'star' not in told
    assert 'cfg-demo image --help lists the words' in told


def test_a_model_of_the_users_own_may_know_any_word(model_file, tmp_path, capsys):
    assert image(model_file, tmp_path, 'a red dog', '--scales', '1', '--seeds', '1') == 0
    assert 'the model does not know' not in capsys.readouterr().err  # its encoder speaks for itself


def test_image_refuses_a_file_that_is_no_model(tmp_path, capsys):
    assert image(tmp_path / 'none.safetensors', tmp_path, 'a star') == 2
    assert 'there is no checkpoint ' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['image', 'train'])
def test_an_unknown_rule_is_refused_with_those_there_are(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, '--guidance', 'magic'])
    assert "invalid choice: 'magic'" in capsys.readouterr().err


@pytest.mark.parametrize('command', ['image', 'train'])
def test_a_folder_that_cannot_be_written_is_refused(command, tmp_path, capsys):
    (tmp_path / 'file').write_text('mine')
    assert cli.main([command, '--out', str(tmp_path / 'file')]) == 2
    assert f'nothing can be written to {str(tmp_path / "file")!r}' in capsys.readouterr().err
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('command', ['image', 'train'])
@pytest.mark.parametrize('library', ['matplotlib', 'diffusers'])
def test_a_missing_library_is_named(command, library, tmp_path, monkeypatch, capsys):
    found = folders.find_spec
    monkeypatch.setattr(folders, 'find_spec', lambda name: None if name == library else found(name))
    assert cli.main([command, '--out', str(tmp_path)]) == 2
    assert f'by {library}, which is not installed: pip install {library}\n' in capsys.readouterr().err


def test_train_leaves_a_model_pictures_and_scores_and_its_model_draws(few, tmp_path, capsys):
    assert train(tmp_path) == 0
    shown = capsys.readouterr()
    names = ['curve.png', 'image.png', MODEL_FILE, 'samples.png', TRAINING_FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert '"a large red diamond in the center on a dark background":' in shown.out
    assert '64 captions never seen in training:' in shown.out
    assert '| rule | scale | whole caption, all |' in shown.out
    assert image(tmp_path / MODEL_FILE, tmp_path / 'drawn', 'a red circle', '--scales', '1', '--seeds', '1') == 0


def test_train_goes_on_where_it_was_interrupted_and_overwrites_no_run(few, tmp_path, capsys, monkeypatch):
    learn = Trainer.learn

    def interrupted(self, images, captions):
        if self.step == 2:
            raise KeyboardInterrupt
        return learn(self, images, captions)

    monkeypatch.setattr(Trainer, 'learn', interrupted)
    assert train(tmp_path / 'broken') == 130
    assert checkpoint.read(tmp_path / 'broken' / TRAINING_FILE)[1]['step'] == 2
    monkeypatch.setattr(Trainer, 'learn', learn)

    assert train(tmp_path / 'broken') == 2
    assert 'holds a run already: pass --resume to go on with it, or another folder as --out' in capsys.readouterr().err
    assert train(tmp_path / 'broken', '--resume', '--cond-drop-prob', '0.5') == 2
    assert 'cannot be resumed with other settings: cond_drop_prob was 0.15 and is 0.5.' in capsys.readouterr().err

    assert train(tmp_path / 'broken', '--resume') == 0
    assert train(tmp_path / 'whole') == 0
    for name in (MODEL_FILE, TRAINING_FILE):
        assert (tmp_path / 'broken' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--prompt', ' '], 'prompt is empty: say what to draw'),
        (['--train-steps', '0'], 'steps counts from 1, but got 0'),
        (['--cond-drop-prob', '2'], 'cond_drop_prob is between 0 and 1, but got 2.0'),
        (['--scales', 'inf'], 'a guidance scale is a finite number, but scales has inf'),
        (['--sampler', 'ddpm'], "a model that predicts flow is sampled by euler or dpm++, but got 'ddpm'"),
        (['--guidance', 'nag', '--condition', 'film', '--scales', '3'], 'this rule guides inside cross-attention'),
        (['--device', 'toaster'], "device 'toaster' cannot be used here"),
        (['--threads', '-1'], 'threads counts from 1, but got -1'),
        (['--resume'], 'there is no checkpoint '),
    ],
)
def test_train_refuses_before_it_trains(options, sentence, tmp_path, capsys):
    assert train(tmp_path / 'out', *options) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert 'train:' not in shown
    assert list((tmp_path / 'out').glob('*')) == []


@pytest.mark.parametrize('command', ['image', 'train'])
def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, '--help'])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in ('--scales', '--guidance', '--steps', '--sampler', '--seed', '--seeds', '--threads', '--out', 'examples:'):
        assert option in shown
