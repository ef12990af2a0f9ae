"""One seed, one loss curve: on one process and two, under every strategy and launcher, resumed and not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from classifier_free_guidance_pytorch.errors import ConfigError
from tests.distributed.conftest import EXAMPLE, free_ports, in_two_processes, load_example

SMALL = [
    '--steps', '6', '--save-every', '3', '--batch', '16', '--micro-batch', '4', '--items', '24', '--dim', '16', '--depth', '2',
    '--rate', '0.2', '--cond-drop-prob', '0.4', '--seed', '3',
]  # fmt: skip
ATTENTION = ['--condition', 'attention']
LAUNCHERS = {
    'torchrun': ['torch.distributed.run', '--nproc-per-node', '2', '--master-port'],
    'accelerate': [
        'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
        '--dynamo_backend', 'no', '--main_process_port',
    ],
}  # fmt: skip


def settings_of(example, out: Path, *more: str) -> Namespace:
    return example.train.arguments().parse_args(['--out', str(out), *SMALL, *more])


def losses(out: Path) -> list[float]:
    entries = [json.loads(line) for line in (out / 'losses.jsonl').read_text().splitlines()]
    assert [entry['step'] for entry in entries] == list(range(len(entries)))
    return [entry['loss'] for entry in entries]


def interrupted(run: Path, out: Path) -> Path:
    """A copy of a run as it was when it was killed, three steps after its last checkpoint."""
    shutil.copytree(run, out)
    shutil.rmtree(out / 'step-0000006')
    (out / 'ema.safetensors').unlink()
    return out


def work(rank, port_of, runs):
    """Train in this one of two processes, once for each of the runs; what a run's encoder is made of comes back."""
    example = load_example()
    found = {}
    for name, arguments in runs.items():
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port_of[name])
        )
        seen = []
        train = example.train.train
        example.train.train = lambda run, *more, train=train, seen=seen: (seen.append(run.model), train(run, *more))[1]
        example.train.main(settings_of(example, *arguments))
        example.train.train = train
        found[name] = facts(seen[0])
    return found


def facts(model) -> dict:
    """What there is of a trained model and its encoder in this process."""
    model = getattr(model, 'module', model)
    (encoder,) = model.text_conditioner.source.encoders
    frozen = [] if encoder._network is None else [*encoder._network.module.parameters()]
    return {
        'keys': {*model.state_dict()},
        'sharded': [type(weight).__name__ for weight in model.parameters() if hasattr(weight, 'full_tensor')],
        'encoder': [(type(weight).__name__, weight.dtype, weight.numel(), weight.requires_grad) for weight in frozen],
    }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def alone(example, folder):
    """The runs of one process, by condition."""
    for condition in ('film', 'attention'):
        example.train.main(settings_of(example, folder / condition, '--condition', condition))
    return folder


@pytest.fixture(scope='module')
def stored(example, folder):
    """The encodings of the captions, made beforehand."""
    pictures = example.data.shapes(24)
    model = example.denoiser.build(16, 2, 'film', 'mini', 0.0)
    (encoding,) = model.encode_texts([sample.caption for sample in pictures])
    encoding.save(folder / 'encodings.safetensors')
    return folder / 'encodings.safetensors'


@pytest.fixture(scope='module')
def together(alone, stored, folder):
    """The runs of two processes."""
    runs = {
        'ddp': (folder / 'ddp',),
        'fsdp': (folder / 'fsdp', '--strategy', 'fsdp', *ATTENTION),
        'stored': (folder / 'stored', '--embeddings', str(stored)),
        'resumed': (interrupted(alone / 'attention', folder / 'resumed'), '--resume', '--strategy', 'fsdp', *ATTENTION),
        'low': (folder / 'low', '--strategy', 'fsdp', '--bf16', '--checkpointing', *ATTENTION),
    }
    ports = dict(zip(runs, free_ports(len(runs)), strict=True))
    return in_two_processes(work, ports, runs)


def test_two_processes_have_the_curve_of_one(alone, together, folder):
    film, attention = losses(alone / 'film'), losses(alone / 'attention')
    assert losses(folder / 'ddp') == pytest.approx(film, rel=1e-4)
    assert losses(folder / 'fsdp') == pytest.approx(attention, rel=1e-4)
    assert film[3:] != pytest.approx(attention[3:], rel=1e-3), 'the curves are too alike to tell anything'


def test_stored_encodings_have_the_curve_of_a_live_encoder(alone, together, folder):
    assert losses(folder / 'stored') == pytest.approx(losses(alone / 'film'), rel=1e-4)


def test_a_resumed_run_has_the_curve_of_an_uninterrupted_one(alone, together, folder):
    """Begun by one process under DDP, gone on with by two under FSDP."""
    ours, expected = losses(folder / 'resumed'), losses(alone / 'attention')
    assert ours == pytest.approx(expected, rel=1e-4)


def test_the_averaged_weights_are_the_same_however_they_came_about(example, alone, together, folder):
    expected = load_file(alone / 'attention' / 'ema.safetensors')
    for name in ('fsdp', 'resumed'):
        torch.testing.assert_close(load_file(folder / name / 'ema.safetensors'), expected, rtol=1e-3, atol=1e-4)
    model = example.denoiser.build(16, 2, 'attention', 'mini', 0.0).eval()
    model.load_state_dict(expected, strict=True)
    guided = model(torch.randn(2, 3, 16, 16), torch.rand(2), texts=['a red circle', 'a blue square'], cond_scale=3.0)
    assert guided.isfinite().all()


def test_mixed_precision_is_near(alone, together, folder):
    ours, expected = losses(folder / 'low'), losses(alone / 'attention')
    assert ours == pytest.approx(expected, rel=0.05)
    assert ours != expected


def test_encoders_are_replicated_and_neither_sharded_nor_saved(together, folder):
    for name in ('ddp', 'fsdp', 'low'):
        one, two = (ranks[name]['encoder'] for ranks in together)
        assert one == two
        assert {entry[0] for entry in one} == {'Parameter'}
        assert {(dtype, grad) for _, dtype, _, grad in one} == {(torch.float32, False)}
        assert sum(entry[2] for entry in one) > 500_000
    assert together[0]['stored']['encoder'] == [], 'stored encodings were given, and an encoder was loaded'
    assert together[0]['fsdp']['sharded']
    assert not together[0]['ddp']['sharded']
    for name in ('ddp', 'fsdp'):
        keys = together[0][name]['keys']
        written = dcp.FileSystemReader(folder / name / 'step-0000006').read_metadata().state_dict_metadata
        assert {key.removeprefix('run.model.') for key in written if key.startswith('run.model.')} == keys
        assert {key.removeprefix('run.ema.') for key in written if key.startswith('run.ema.')} == keys
        assert {*load_file(folder / name / 'ema.safetensors')} == keys
        others = {key.split('.')[1] for key in written}
        assert others == {'model', 'ema', 'optimizer', 'schedule', 'steps_done'}


def launched(command: list[str]) -> tuple[int, str, str]:
    """Exit code, output and progress of a launcher, which is asked to end its processes where they hang."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            said, progress = launcher.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            launcher.terminate()
            said, progress = launcher.communicate()
    return launcher.returncode, said, progress


@pytest.mark.parametrize(('launcher', 'strategy'), [('torchrun', 'ddp'), ('accelerate', 'accelerate')])
def test_launchers(alone, folder, launcher, strategy):
    """The script itself, gone on with from a checkpoint of one process."""
    out = interrupted(alone / 'film', folder / launcher)
    command = [sys.executable, '-m', *LAUNCHERS[launcher], str(free_ports(1)[0]), str(EXAMPLE / 'train.py')]
    arguments = ['--out', str(out), '--strategy', strategy, '--resume', '--workers', '1', *SMALL]
    code, said, progress = launched([*command, *arguments])
    assert code == 0, progress[-3000:]
    assert said.count('goes on from step-0000003') == 1, 'the first process alone speaks'
    assert '6/6' in progress
    assert losses(out) == pytest.approx(losses(alone / 'film'), rel=1e-4)
    assert (out / 'step-0000006' / '__1_0.distcp').exists(), 'two processes were asked for'


def test_nothing_is_overwritten(example, alone):
    before = {path: path.stat().st_mtime_ns for path in alone.rglob('*')}
    for more, said in (
        ([], 'holds a run already: pass --resume'),
        (['--resume', '--seed', '4'], r'was begun with --seed 3 \(now 4\)'),
        (['--resume', '--micro-batch', '5'], 'is no multiple of --micro-batch 5'),
    ):
        with pytest.raises(ConfigError, match=said):
            example.train.main(settings_of(example, alone / 'film', *more))
    assert {path: path.stat().st_mtime_ns for path in alone.rglob('*')} == before


def test_what_cannot_work_is_refused_before_anything_is_written(example, stored, tmp_path):
    with pytest.raises(ConfigError, match='hold 24 texts for 12 pictures'):
        example.train.main(settings_of(example, tmp_path / 'run', '--embeddings', str(stored), '--items', '12'))
    (tmp_path / 'text').write_text('no tensors')
    with pytest.raises(ConfigError, match='is no safetensors file'):
        example.train.main(settings_of(example, tmp_path / 'run', '--embeddings', str(tmp_path / 'text')))
    assert not (tmp_path / 'run').exists()
    assert not torch.distributed.is_initialized()


def test_the_captions_are_printed_in_order(example):
    command = [sys.executable, str(EXAMPLE / 'data.py'), '--items', '5']
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == [sample.caption for sample in example.data.shapes(5)]
