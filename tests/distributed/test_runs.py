"""One seed, one loss curve: on one process and two, under every strategy and launcher, resumed and not."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from classifier_free_guidance_pytorch.corpus import TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError
from tests.distributed.conftest import EXAMPLE, free_ports, in_two_processes, load_example
from tests.tiny_models import TinyEncoder

SMALL = [
    '--steps', '4', '--save-every', '2', '--batch', '16', '--micro-batch', '4', '--items', '24', '--dim', '8', '--depth', '1',
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
    """A copy of a run as it was when it was killed, two steps after its last checkpoint."""
    shutil.copytree(run, out)
    shutil.rmtree(out / 'step-0000004')
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
    frozen = [] if encoder.network is None else [*encoder.network.module.parameters()]
    return {
        'keys': {*model.state_dict()},
        'sharded': [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)],
        'encoder': [(type(weight).__name__, weight.dtype, weight.numel(), weight.requires_grad) for weight in frozen],
    }


@pytest.fixture(scope='module')
def alone(example, tmp_path_factory):
    """A folder with the runs of one process, by condition."""
    folder = tmp_path_factory.mktemp('runs')
    for condition in ('film', 'attention'):
        example.train.main(settings_of(example, folder / condition, '--condition', condition))
    return folder


@pytest.fixture(scope='module')
def store(example, alone):
    """The captions, encoded beforehand."""
    captions = alone / 'captions.txt'
    captions.write_text(''.join(f'{sample.caption}\n' for sample in example.data.shapes(24)))
    embed_corpus(captions, alone / 'store', TextEmbedder(model_types='mini', dtype='fp32'), quiet=True)
    return alone / 'store'


def test_two_processes(example, alone, store):
    """One test, since two processes are slow to start."""
    runs = {
        'ddp': (alone / 'ddp',),
        'fsdp': (alone / 'fsdp', '--strategy', 'fsdp', '--embeddings', str(store), *ATTENTION),
        'resumed': (interrupted(alone / 'attention', alone / 'resumed'), '--resume', '--strategy', 'fsdp', *ATTENTION),
        'low': (alone / 'low', '--strategy', 'fsdp', '--bf16', '--checkpointing', *ATTENTION),
    }
    ports = dict(zip(runs, free_ports(len(runs)), strict=True))
    found = in_two_processes(work, ports, runs)
    check_losses(alone)
    check_averaged_weights(example, alone)
    check_encoders(alone, found)


def check_losses(folder):
    """Those of one process, with an encoder or with what it said earlier, begun by the other number of processes or not."""
    film, attention = losses(folder / 'film'), losses(folder / 'attention')
    assert film[2:] != pytest.approx(attention[2:], rel=1e-3), 'the curves are too alike to tell anything'
    assert losses(folder / 'ddp') == pytest.approx(film, rel=1e-4)
    assert losses(folder / 'fsdp') == pytest.approx(attention, rel=1e-4), 'stored, sharded'
    assert losses(folder / 'resumed') == pytest.approx(attention, rel=1e-4), 'begun by one process under DDP'
    assert losses(folder / 'low') == pytest.approx(attention, rel=0.05)
    assert losses(folder / 'low') != attention


def check_averaged_weights(example, folder):
    """The same however they came about, and they fit the model of one process."""
    expected = load_file(folder / 'attention' / 'ema.safetensors')
    for name in ('fsdp', 'resumed'):
        torch.testing.assert_close(load_file(folder / name / 'ema.safetensors'), expected, rtol=1e-3, atol=1e-4)
    model = example.denoiser.build(8, 1, 'attention', 'mini', 0.0).eval()
    model.load_state_dict(expected, strict=True)
    guided = model(torch.randn(2, 3, 16, 16), torch.rand(2), texts=['a red circle', 'a blue square'], cond_scale=3.0)
    assert guided.isfinite().all()


def check_encoders(folder, found):
    """Every process has its own whole encoder, in its own precision, and none is in a state dict or a checkpoint."""
    for name in ('ddp', 'low'):
        one, two = (of_rank[name]['encoder'] for of_rank in found)
        assert one == two
        assert {entry[0] for entry in one} == {'Parameter'}
        assert {(dtype, grad) for _, dtype, _, grad in one} == {(torch.float32, False)}
        assert sum(entry[2] for entry in one) > 500_000
    assert found[0]['fsdp']['encoder'] == [], 'encodings were stored, and an encoder was loaded'
    assert not found[0]['ddp']['sharded']
    for name in ('ddp', 'fsdp'):
        keys = found[0][name]['keys']
        written = {*dcp.FileSystemReader(folder / name / 'step-0000004').read_metadata().state_dict_metadata}
        assert {key.removeprefix('run.model.') for key in written if key.startswith('run.model.')} == keys
        assert {key.removeprefix('run.ema.') for key in written if key.startswith('run.ema.')} == keys
        assert {*load_file(folder / name / 'ema.safetensors')} == keys
        assert {key.split('.')[1] for key in written} == {'model', 'ema', 'optimizer', 'schedule', 'steps_done'}
    assert {*found[0]['fsdp']['sharded']} == keys, 'every weight is sharded'


@pytest.mark.parametrize(('launcher', 'strategy'), [('torchrun', 'ddp'), ('accelerate', 'accelerate')])
def test_launchers(example, tmp_path, launcher, strategy):
    """The script itself, going on from a checkpoint of one process."""
    example.train.main(settings_of(example, tmp_path / 'alone'))
    out = interrupted(tmp_path / 'alone', tmp_path / launcher)
    command = [sys.executable, '-m', *LAUNCHERS[launcher], str(free_ports(1)[0]), str(EXAMPLE / 'train.py')]
    arguments = ['--out', str(out), '--strategy', strategy, '--resume', '--workers', '1', *SMALL]
    code, said, progress = launched([*command, *arguments])
    assert code == 0, progress[-3000:]
    assert said.count('goes on from step-0000002') == 1, 'the first process alone speaks'
    assert '4/4' in progress
    assert losses(out) == pytest.approx(losses(tmp_path / 'alone'), rel=1e-4)
    assert (out / 'step-0000004' / '__1_0.distcp').exists(), 'two processes were asked for'


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


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(example, tmp_path):
    example.train.main(settings_of(example, tmp_path / 'alone'))
    out = interrupted(tmp_path / 'alone', tmp_path / 'resumed')
    example.train.main(settings_of(example, out, '--resume'))
    assert losses(out) == losses(tmp_path / 'alone')
    expected = load_file(tmp_path / 'alone' / 'ema.safetensors')
    torch.testing.assert_close(load_file(out / 'ema.safetensors'), expected, rtol=0, atol=0)


def test_a_run_that_is_killed_at_its_first_checkpoint_is_still_a_run(example, tmp_path, monkeypatch):
    """Neither overwritten without a word, nor lost: its checkpoint may be whole, and nothing after it written."""
    save = example.train.Run.save

    def killed(run, out):
        save(run, out)
        raise KeyboardInterrupt

    monkeypatch.setattr(example.train.Run, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
        example.train.main(settings_of(example, tmp_path / 'killed'))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match='holds a run already: pass --resume'):
        example.train.main(settings_of(example, tmp_path / 'killed'))
    with pytest.raises(ConfigError, match='was begun with --seed 3'):
        example.train.main(settings_of(example, tmp_path / 'killed', '--resume', '--seed', '4'))
    example.train.main(settings_of(example, tmp_path / 'killed', '--resume'))
    example.train.main(settings_of(example, tmp_path / 'alone'))
    assert losses(tmp_path / 'killed') == losses(tmp_path / 'alone')


def test_nothing_is_overwritten(example, tmp_path):
    example.train.main(settings_of(example, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    for more, said in (
        ([], 'holds a run already: pass --resume'),
        (['--resume', '--seed', '4'], r'was begun with --seed 3 \(now 4\)'),
        (['--resume', '--micro-batch', '5'], 'is no multiple of --micro-batch 5'),
    ):
        with pytest.raises(ConfigError, match=said):
            example.train.main(settings_of(example, tmp_path, *more))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before


def test_what_cannot_work_is_refused_before_anything_is_written(example, tmp_path):
    captions = tmp_path / 'captions.txt'
    captions.write_text('a caption of something else\n')
    embed_corpus(captions, tmp_path / 'store', TextEmbedder(model_types=[TinyEncoder()]), quiet=True)
    for folder, said in (('store', 'is not among the 1 different captions'), ('nowhere', 'is not a store')):
        with pytest.raises(CFGError, match=said):
            example.train.main(settings_of(example, tmp_path / 'run', '--embeddings', str(tmp_path / folder)))
    assert not (tmp_path / 'run').exists()
    assert not torch.distributed.is_initialized()


def test_the_captions_are_printed_in_order(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['data.py', '--items', '5'])
    runpy.run_path(str(EXAMPLE / 'data.py'), run_name='__main__')
    assert capsys.readouterr().out.splitlines() == [sample.caption for sample in example.data.shapes(5)]
