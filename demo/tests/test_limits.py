"""What no demo can use is refused before any work, in one sentence, and warnings are one line."""

from __future__ import annotations

import shlex
import warnings

import pytest

from cfg_demo import cli
from cfg_demo.folders import check_device
from cfg_demo.image.checkpoint import read
from classifier_free_guidance_pytorch.errors import ConfigError

SEED = 'seed is a whole number from 0 to 4294967295, but got '


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        ('image x --seed -1', f'{SEED}-1'),
        ('image x --seed 99999999999999999999', f'{SEED}99999999999999999999'),
        ('emoji x --seed -1', f'{SEED}-1'),
        ('sample x --seed -1', f'{SEED}-1'),
        ('train --seed -1', f'{SEED}-1'),
        ('train-on --seed -1 --out new', f'{SEED}-1'),
        ('train-mini --seed -1', f'{SEED}-1'),
        ('points --seed -1', f'{SEED}-1'),
        ('distil --seed -1', f'{SEED}-1'),
        ('train-english --teacher x --split-seed -1', 'split_seed is a whole number from 0'),
        ('front --seeds 0 -1', 'seeds is a whole number from 0 to 4294967295, but got -1'),
        ('image x --seeds 100000', 'seeds is a whole number from 1 to 200, but got 100000'),
        ('image x --scales 1e39', 'a guidance scale is at most 1000, but scales has 1e+39'),
        ('sample x --cond-scale=-1e300', 'a guidance scale is at most 1000, but cond_scale has -1e+300'),
        ('evaluate --scales 1 nan', 'a guidance scale is a finite number, but scales has nan'),
        ('emoji-evaluate --data x --other-scales inf', 'a guidance scale is a finite number, but other_scales has inf'),
        ('distil --scales nan', 'a guidance scale is a finite number, but scales has nan'),
        ('page --threads 99999999999999999', 'threads is at most 1024, but got 99999999999999999'),
        ('points --threads 99999999999999999', 'threads is at most 1024, but got 99999999999999999'),
        ('evaluate --share 0', '--share is above 0 and at most 1, but got 0.0'),
        ('evaluate --share nan', '--share is above 0 and at most 1, but got nan'),
        ('evaluate --steps 0', 'steps is a number from 1 to 1000, but got 0'),
        ('emoji-evaluate --data x --steps 0', 'steps is a number from 1 to 1000, but got 0'),
        ('train-on --out new --workers -1', 'workers is a whole number from 0 to 256, but got -1'),
        ('train-on --out new --save-every 0', '--save-every counts from 1, but got 0'),
        ('train-on --out new --draw-every -1', '--draw-every counts from 1, but got -1'),
        ('train-on --out new --image-size 999999992', 'image_size is a multiple of 8 from 16 to 1024, but got 999999992'),
        ('train-on --out new --ship .', "'.' is a folder: pass a file as --ship"),
        ('train-mini --save-every 0', '--save-every counts from 1, but got 0'),
        ('train-mini --sets -1', '--sets counts from 0, but got -1'),
        ('train-mini --learning-rate nan', 'learning_rate is a finite number above 0, but got nan'),
        ('train-mini --device toaster', "device 'toaster' cannot be used here"),
        ('train-judge --data x --teacher x --learning-rate 0', 'learning_rate is a finite number above 0, but got 0.0'),
        ('train-english --teacher x --batch-size 0', '--batch-size counts from 1, but got 0'),
        ('classifier-guidance --pictures 0', '--pictures counts from 1, but got 0'),
        ('classifier-guidance --steps 0', '--steps counts from 1, but got 0'),
        ('classifier-guidance --out . --classifier new/c.safetensors', "'.' is a folder: pass a file as --out"),
        ('classifier-guidance --classifier .', "'.' is a folder: pass a file as --classifier"),
        ('emoji-data --out new --from . --sheet .', "'.' is a folder: pass a file as --sheet"),
        ('distil --teacher latin --out new', "'latin' cannot be read as a teacher of these settings"),
        ('sample x --count 0', '--count counts images of a prompt from 1, but got 0'),
        ('sample x " "', 'a prompt is empty'),
        ('sample --prompts latin', "'latin' is not text in UTF-8 (invalid continuation byte): pass one prompt a line"),
    ],
)
def test_values_out_of_range_are_refused_before_any_work(line, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'latin').write_bytes('un caf\u00e9 noir'.encode('latin-1'))
    assert cli.main(shlex.split(line)) == 2
    shown = capsys.readouterr().err
    assert shown.startswith('cfg-demo: error: ')
    assert sentence in shown
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('content', ['', '[]', '{"setup": 1}', '{"setup": 1, "scores": 2}'])
def test_a_file_that_holds_no_scores_is_refused(content, tmp_path):
    from cfg_demo.image.evaluate_command import read_scores

    (tmp_path / 'scores.json').write_text(content)
    with pytest.raises(ConfigError, match=r'scores\.json\' does not hold scores: pass another folder as --out'):
        read_scores(tmp_path / 'scores.json', {})


def test_a_device_that_computes_nothing_is_refused():
    with pytest.raises(ConfigError, match="device 'meta' cannot be used here"):
        check_device('meta')


@pytest.mark.parametrize(('name', 'wanted'), [('nowhere', 'model.safetensors'), ('training.safetensors', 'training.safetensors')])
def test_a_missing_checkpoint_is_asked_for_by_a_name_that_is_written(name, wanted, tmp_path):
    with pytest.raises(ConfigError, match=rf'pass the {wanted} that a training run has written'):
        read(tmp_path / name)


def test_warnings_are_lines(capsys):
    with cli.warnings_as_lines():
        warnings.warn('the sky is low', stacklevel=1)
    assert capsys.readouterr().err == 'cfg-demo: warning: the sky is low\n'
