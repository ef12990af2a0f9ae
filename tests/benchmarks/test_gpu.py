"""`scripts/gpu` without a GPU: a step that fails, hangs or is late stops no other, and what there is comes home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.gpu import results, running, wheels
from benchmarks.gpu.__main__ import environment_with, main
from benchmarks.gpu.running import FAILED, LATE, PASSED, SKIP, STOPPED, Outcome, Step, run_all
from benchmarks.gpu.steps import all_steps
from benchmarks.parts import ON_GPU, PARTS
from benchmarks.results import version_of

ROOT = wheels.ROOT
UNUSED = {'hf-xet', 'pydantic', 'tzdata'}  # for downloads, command lines and time zones
SAVES_WHEN_INTERRUPTED = """
import sys, time
try:
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[1] + '/model.safetensors', 'w').write('weights')
    print('saved')
"""
LEAVES_A_CHILD = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"


def step(name, program, limit=30.0, least=0.1):
    return Step(name, f'what {name} settles', (sys.executable, '-c', program, '{folder}', '{seconds}'), limit, least)


def run(steps, tmp_path, seconds=200.0):
    told = []
    outcomes = run_all(steps, tmp_path / 'work', tmp_path, seconds, dict(os.environ), told.append)
    assert told == outcomes
    return {one.name: one for one in outcomes}


def test_every_way_a_step_can_end(tmp_path):
    ended = run(
        [
            step('good', 'print("first"); print("42 of 42"); print()'),
            step('bad', 'import sys; print("half"); sys.exit("it broke")'),
            step('long', SAVES_WHEN_INTERRUPTED, limit=1.5),
            step('idle', f'import sys; print("nothing to do"); sys.exit({running.SKIPPED})'),
            Step('absent', 'what is not there', ('no-such-program',), 5.0),
            step('after', 'import sys; print(sys.argv[2])', limit=7.4),
        ],
        tmp_path,
    )
    assert {name: one.status for name, one in ended.items()} == {
        'good': PASSED, 'bad': FAILED, 'long': STOPPED, 'idle': SKIP, 'absent': FAILED, 'after': PASSED,
    }  # fmt: skip
    assert [ended[name].last for name in ('good', 'bad', 'long', 'idle', 'after')] == [
        '42 of 42', 'it broke', 'saved', 'nothing to do', '7',
    ]  # fmt: skip
    assert 'no-such-program' in ended['absent'].last
    assert (tmp_path / 'work' / 'long' / 'model.safetensors').read_text() == 'weights'
    assert (tmp_path / 'work' / 'bad' / 'log.txt').read_text() == 'half\nit broke\n'


def test_a_step_that_does_not_obey_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(running, 'GRACE', 0.5)
    stubborn = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print("no", flush=True); time.sleep(60)'
    ended = run([step('stubborn', stubborn, limit=1.5)], tmp_path)['stubborn']
    assert (ended.status, ended.last) == (STOPPED, 'no')
    assert ended.seconds < 20


def test_what_a_step_leaves_running_is_ended(tmp_path):
    child = int(run([step('parent', LEAVES_A_CHILD)], tmp_path)['parent'].last)
    end = time.monotonic() + 10
    while is_running(child):  # a signal takes its time
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(number):
    try:
        return Path(f'/proc/{number}/stat').read_text().split()[2] != 'Z'
    except OSError:
        return False


def test_the_total_ends_before_the_steps_do(tmp_path, monkeypatch):
    monkeypatch.setattr(running, 'GRACE', 0.5)
    first, second = run([step('first', 'import time; time.sleep(60)'), step('second', '', least=5)], tmp_path, 3.0).values()
    assert (first.status, second.status) == (STOPPED, LATE)
    assert first.seconds < 3


def test_what_comes_home(tmp_path, monkeypatch):
    monkeypatch.setattr(results, 'LARGEST', 1000)
    work, out = tmp_path / 'work', tmp_path / 'out'
    figure = {'case': 'an MLP', 'way': 'prepared', 'against': 'by hand', 'ratio': {'median': 0.9}}
    figures = [{**figure, 'bar': {'holds': holds, 'value': 0.9}} for holds in ('at most', 'below')] + [{**figure, 'bar': None}]
    for name, content in {
        'facts/facts.json': json.dumps({'device': 'a card'}), 'speed/cuda/steps.json': json.dumps({'figures': figures}),
        'train/shapes.safetensors': 'weights', 'train/huge.safetensors': 'x' * 1001, 'train/samples.png': 'pixels',
        'broken/half.json': '{"figures": [',
    }.items():  # fmt: skip
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(content)
    outcomes = [Outcome('speed', 'how fast', PASSED, 3.0, 0, 'a | b')]
    results.write(outcomes, {'dry run': False}, work, out)
    assert {path.name for path in out.iterdir()} == {'summary.md', 'summary.json', 'steps.zip', 'train-shapes.safetensors'}
    with zipfile.ZipFile(out / 'steps.zip') as packed:
        assert set(packed.namelist()) == {'facts/facts.json', 'speed/cuda/steps.json', 'train/samples.png', 'broken/half.json'}
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['facts'] == {'dry run': False, 'device': 'a card'}
    assert [bar['verdict'] for bar in summary['bars']] == ['missed', 'met']
    page = (out / 'summary.md').read_text()
    assert '| speed | how fast | passed | 3 | a \\| b |' in page
    assert 'Bars: 1 met, 1 missed.' in page


def fake_wheels(monkeypatch, sizes):
    monkeypatch.setattr(wheels, 'tree_bytes', lambda: 100)
    monkeypatch.setattr(
        wheels, 'download', lambda folder, python: [(folder / name).write_bytes(b'x' * size) for name, size in sizes.items()]
    )


def test_small_wheels_are_packed_first_and_nothing_beyond_the_limit(tmp_path, monkeypatch):
    fake_wheels(monkeypatch, {
        'numpy-2-cp312-cp312-linux.whl': 500, 'regex-1-cp310-cp310-linux.whl': 30, 'regex-1-cp312-cp312-linux.whl': 30,
        'beartype-1-py3-none-any.whl': 30, 'pillow-1-cp312-cp312-linux.whl': 5,
    })  # fmt: skip
    (tmp_path / 'old.whl').write_text('')
    left_out = wheels.pack(tmp_path, ('3.12', '3.10'), 100 + 96)
    assert left_out == ['numpy-2-cp312']
    assert len(list(tmp_path.iterdir())) == 4
    assert wheels.pack(tmp_path, ('3.12', '3.10'), 100 + 65) == [
        'regex-1-cp310', 'numpy-2-cp312',
    ]  # fmt: skip


def test_versions_are_those_of_the_constraints():
    for python, expected in (('3.12', True), ('3.10', False)):
        requirements = list(wheels.pinned(python))
        assert len(requirements) == len(wheels.PACKAGES)
        assert any(one.startswith('open_clip_torch==') for one in requirements)
        assert any(one.startswith('numpy==') for one in requirements) == expected
    assert not any('torchvision' in one or one.startswith(('torch', 'nvidia')) for one in requirements)


def test_what_the_packages_need_is_packed_too():
    packed, missing = {wheels.plain(name) for name in wheels.PACKAGES}, set()
    for pinned in wheels.pinned(f'{sys.version_info.major}.{sys.version_info.minor}'):
        name, _, version = pinned.partition('==')
        if version_of(name) == version:  # others may need something else
            needs = (Requirement(line) for line in requires(name) or ())
            missing |= {wheels.plain(one.name) for one in needs if not one.marker or one.marker.evaluate({'extra': ''})} - packed
    assert missing <= {'torch', 'torchvision', *UNUSED}


def test_only_what_is_missing_is_installed(tmp_path, monkeypatch):
    (tmp_path / 'beartype-1-py3-none-any.whl').write_text('')
    assert wheels.install(tmp_path, tmp_path / 'target') == [], 'it is here'
    monkeypatch.setitem(wheels.PACKAGES, 'beartype', 'google.no_such_module')
    asked = []

    def pip(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(wheels.subprocess, 'run', pip)
    assert wheels.install(tmp_path, tmp_path / 'target') == ['beartype']
    (command,) = asked
    assert {'--no-index', '--no-deps', '--target', str(tmp_path / 'target')} <= set(command)


def test_every_step_is_a_command_of_this_repository():
    for device, tiny in (('cuda', False), ('cpu', True)):
        steps = all_steps(device, tiny)
        assert len({one.name for one in steps}) == len(steps)
        for one in steps:
            assert one.command[:2] == (sys.executable, '-m')
            assert device in one.command or one.name in ('correctness', 'train-emoji')
            if one.name.startswith('speed-'):
                assert one.name.removeprefix('speed-') in {**PARTS, **ON_GPU}
    assert sum(one.limit for one in all_steps('cuda', False) if one.name[:5] != 'train') < 20 * 60


def test_a_step_sees_this_repository_and_no_network(tmp_path):
    given = environment_with(tmp_path / 'installed', tmp_path / 'compiled')
    assert given['PYTHONPATH'].split(os.pathsep)[:3] == [str(ROOT), str(ROOT / 'demo'), str(tmp_path / 'installed')]
    assert given['HF_HUB_OFFLINE'] == '1'


def test_without_a_gpu_it_says_so(capfd, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert main([]) == 2
    assert 'try --dry-run' in capfd.readouterr().err


def test_the_shortest_dry_run(tmp_path):
    chosen = [
        '--only',
        'facts',
        'correctness',
        'speed-dispatch',
        'train-emoji',
        '--tests',
        'test_rules and (CFG-number or noticed)',
    ]
    out, work = tmp_path / 'out', tmp_path / 'work'
    command = ['bash', 'scripts/gpu', '--dry-run', *chosen, '--out', str(out), '--work', str(work), '--wheels', str(tmp_path)]
    environment = {**os.environ, 'PYTHON': sys.executable}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((out / 'summary.json').read_text())
    assert [one['status'] for one in summary['steps']] == [PASSED, PASSED, PASSED, SKIP]
    assert summary['facts']['dry run'] is True
    assert summary['facts']['cannot be imported'] == {}
    assert 'passed' in summary['steps'][1]['last']
    assert summary['bars']
    page = (out / 'summary.md').read_text()
    assert "there are no emoji in 'emoji'" in page
    assert 'its figures mean nothing' in page
