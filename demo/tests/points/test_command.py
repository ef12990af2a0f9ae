"""`cfg-demo points` as users run it: a process, its files, its exit code, its one-sentence errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cfg_demo import cli
from cfg_demo.points import command
from cfg_demo.points.command import read_settings
from cfg_demo.points.settings import Settings
from classifier_free_guidance_pytorch.errors import ConfigError

RUN = [sys.executable, '-m', 'cfg_demo.cli', 'points']
TINY = [
    '--train-steps',
    '20',
    '--samples',
    '8',
    '--steps',
    '3',
    '--batch-size',
    '16',
    '--scales',
    '0',
    '1',
    '3',
    '--threads',
    '1',
]


def run(*options):
    return subprocess.run([*RUN, *options], capture_output=True, text=True, check=False, timeout=240)


def parsed(*options) -> Settings:
    return read_settings(cli.build_parser().parse_args(['points', *options]))


def test_no_options_are_the_default_settings():
    assert parsed() == Settings()


def test_every_setting_can_be_given():
    settings = parsed(
        *('--model-types', 't5', 'clip', '--model-names', 'a/b', 'c', '--condition', 'attention', '--cond-drop-prob', '0.1'),
        *('--caption-noise', '0.2', '--train-steps', '7', '--batch-size', '8', '--scales', '0', '2', '--guidance', 'apg'),
        *('--rescale-phi', '0.5', '--interval', '0.1', '0.9', '--negative', 'a star', '--samples', '9', '--steps', '4'),
        *('--device', 'cpu', '--seed', '3', '--threads', '2'),
    )
    default = Settings()
    unchanged = [name for name in vars(default) if getattr(settings, name) == getattr(default, name) and name != 'device']
    assert unchanged == []
    assert settings.scales == [0.0, 2.0]


def test_quick_gives_way_to_what_is_given():
    assert parsed('--quick').steps == command.QUICK['steps']
    assert parsed('--quick', '--train-steps', '5').steps == 5


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(['points', '--help'])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert 'guided = null + cond_scale * (cond - null)' in shown
    for name in (
        '--model-types',
        '--condition',
        '--scales',
        '--guidance',
        '--out',
        'default: mini',
        'default: 2000',
        'examples:',
    ):
        assert name in shown


def test_a_library_error_is_one_sentence_and_exit_code_2(capsys, monkeypatch):
    def refuse(arguments):
        raise ConfigError('that cannot work')

    monkeypatch.setattr(command, 'run', refuse)
    assert cli.main(['points']) == 2
    assert capsys.readouterr().err == 'cfg-demo: error: that cannot work\n'


def test_an_interrupt_is_quiet(capsys, monkeypatch):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, 'run', stop)
    assert cli.main(['points']) == 130
    assert 'interrupted' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--scales', 'nan'], 'a guidance scale is a finite number, but scales has nan'),
        (['--guidance', 'magic'], "guidance is one of cfg, apg, cfg-zero-star, tcfg, raag, but got 'magic'"),
        (['--device', 'toaster'], "device 'toaster' cannot be used here"),
        (['--model-types', 'word2vec'], "'word2vec'"),
    ],
)
def test_errors_come_before_any_work_without_a_traceback(options, sentence, tmp_path, capsys):
    assert cli.main(['points', *options, '--out', str(tmp_path / 'out')]) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.startswith('cfg-demo: error: ')
    assert 'step/s' not in shown


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert cli.main(['points', '--out', str(tmp_path / 'file')]) == 2
    shown = capsys.readouterr().err
    assert 'nothing can be written to' in shown
    assert 'train' not in shown


def test_importing_the_script_loads_nothing_heavy():
    code = (
        'import sys, cfg_demo.cli as cli; cli.build_parser(); '
        'print([name for name in ("torch", "numpy", "matplotlib", "transformers", "diffusers") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == '[]'


def test_the_command_leaves_a_picture_and_the_numbers(tmp_path, mini):
    done = run(*TINY, '--out', str(tmp_path / 'out'))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out' / 'points.png').read_bytes().startswith(b'\x89PNG')
    report = json.loads((tmp_path / 'out' / 'points.json').read_text())
    assert [row['cond_scale'] for row in report['scales']] == [0.0, 1.0, 3.0]
    assert 'cond_scale' in done.stdout
    assert 'Picture:' in done.stdout
    assert '20/20' not in done.stderr, 'a bar is for terminals'


def test_a_second_run_keeps_the_first_picture(tmp_path, mini):
    for _ in range(2):
        assert run(*TINY, '--out', str(tmp_path)).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {'points.png', 'points.json', 'points-2.png', 'points-2.json'}


@pytest.mark.skipif(os.name != 'posix', reason='sends SIGINT')
def test_control_c_stops_a_training_without_a_traceback(tmp_path, mini):
    import fcntl
    import struct
    import termios

    terminal, its_end = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))  # rows, columns: room for a bar
    process = subprocess.Popen([*RUN, '--threads', '1', '--out', str(tmp_path)], stderr=its_end)
    os.close(its_end)
    shown = ''
    while 'train' not in shown and process.poll() is None:
        shown += os.read(terminal, 1000).decode(errors='replace')
    assert '/2000' in shown, 'a progress bar, in a terminal'
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while more := os.read(terminal, 1000):
            shown += more.decode(errors='replace')
    process.wait(timeout=60)
    assert process.returncode == 130, shown
    assert 'Traceback' not in shown
    assert 'interrupted' in shown


@pytest.fixture
def mini():
    """Skip where the embedded encoder is not part of the tree."""
    from pathlib import Path

    import classifier_free_guidance_pytorch.text as text

    if not (Path(text.__file__).parent / 'mini_weights').is_dir():
        pytest.skip('the embedded encoder is not there')
