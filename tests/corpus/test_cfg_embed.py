"""The command: its options, what it prints, its exit codes, two processes at once, and Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.corpus.command import build_parser, main
from classifier_free_guidance_pytorch.text import build_encoder
from tests.corpus.test_docs import code_of
from tests.corpus.test_run import files_of

ROOT = Path(__file__).parents[2]
TEXTS = ['a red circle', 'a blue square', '', 'a red circle', 'a small green triangle above a red circle', 'a star', 'two stars']


@pytest.fixture
def captions(tmp_path) -> Path:
    path = tmp_path / 'captions.jsonl'
    path.write_text('\n'.join(json.dumps({'id': i, 'text': text}) for i, text in enumerate(TEXTS)), encoding='utf-8')
    return path


def embed(captions: Path, out: Path, *options: str) -> int:
    return main([str(captions), '--out', str(out), '--model-types', 'mini', '--shard-rows', '2', *options])


def test_captions_in_encodings_out(captions, tmp_path, capsys):
    assert embed(captions, tmp_path / 'store', '--column', 'text', '--dtype', 'fp32', '--batch-size', '2') == 0
    printed = capsys.readouterr()
    assert printed.out == ''
    assert 'cfg-embed: 6 captions, 5 different ones, in 3 shards' in printed.err
    assert 'cfg-embed: skipped: 1 empty (line 3)' in printed.err
    assert 'captions/s' not in printed.err  # a bar is for terminals
    assert f'cfg-embed: {tmp_path / "store"} is complete: 7 files' in printed.err
    store, encoder = EmbeddingStore(tmp_path / 'store'), build_encoder('mini')
    for row, text in enumerate(text for text in TEXTS if text):
        expected = encoder.encode([text])
        torch.testing.assert_close(store[row].tokens, expected.tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(store[row].pooled, expected.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'pooled', 'tokens'),
    [((), True, True), (('--pooled',), True, False), (('--tokens',), False, True), (('--pooled', '--tokens'), True, True)],
)
def test_what_is_stored(captions, tmp_path, options, pooled, tokens):
    assert embed(captions, tmp_path / 'store', '--quiet', *options) == 0
    (encoder,) = json.loads((tmp_path / 'store' / 'manifest.json').read_text())['encoders']
    assert (encoder['pooled'], encoder['tokens'], encoder['dtype']) == (pooled, tokens, 'bfloat16')


def test_quiet_says_nothing(captions, tmp_path, capfd):
    assert embed(captions, tmp_path / 'store', '--quiet') == 0
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('quiet', [False, True])
def test_a_warning_is_a_line_and_does_not_quote_a_book(tmp_path, capfd, quiet):
    """It comes from the thread of the tokenizer, and the line of code that it points to means nothing to a user."""
    (tmp_path / 'captions.txt').write_text('a red circle ' * 10_000, encoding='utf-8')
    assert embed(tmp_path / 'captions.txt', tmp_path / 'store', *['--quiet'] * quiet) == 0
    printed = capfd.readouterr().err
    cut = [line for line in printed.splitlines() if 'reads at most' in line]
    assert len(cut) == (not quiet)
    assert all(line.startswith('cfg-embed: warning: MiniAdapter reads at most 40 tokens') for line in cut)
    assert '.py' not in printed
    assert 'red circle ' * 9 not in printed


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_a_device_that_is_not_there(captions, tmp_path, capsys, device):
    assert embed(captions, tmp_path / 'store', '--device', device) == 2
    assert 'cfg-embed: error: device' in capsys.readouterr().err


def test_the_rank_that_completes_a_store_says_so(captions, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    printed = {}
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        assert embed(captions, tmp_path / 'store') == 0
        printed[rank] = capsys.readouterr().err
    assert 'cfg-embed: rank 0 is done; 1 files of other ranks are yet to come' in printed['0']
    assert printed['1'].splitlines()[-1].startswith(f'cfg-embed: {tmp_path / "store"} is complete: 7 files')
    assert embed(captions, tmp_path / 'store') == 0
    assert 'complete' not in capsys.readouterr().err, 'once is enough'


def test_an_error_is_one_sentence_and_the_code_2(captions, tmp_path, capsys):
    assert embed(captions, tmp_path / 'store', '--column', 'caption') == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"cfg-embed: error: {captions} has no column 'caption' of strings: it has 'text'")
    assert not (tmp_path / 'store').exists()
    assert main([str(captions), '--out', str(tmp_path / 'store'), '--model-types', 'mini', 'mini']) == 2
    assert "two encoders have one name, 'mini-mini'" in capsys.readouterr().err


def test_an_interruption_says_how_to_continue(captions, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('classifier_free_guidance_pytorch.corpus.encode.job.Job.encode', interrupt)
    assert embed(captions, tmp_path / 'store', '--quiet') == 130
    assert f'interrupted; run the same command again to continue {tmp_path / "store"}' in capsys.readouterr().err


def test_the_help_has_every_option_and_examples_that_parse(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    text = capsys.readouterr().out
    for option in (
        '--out', '--model-types', '--model-names', '--column', '--split', '--limit', '--keep-empty', '--batch-size', '--device',
        '--dtype', '--precision', '--pooled', '--tokens', '--shard-rows', '--engine', '--ray-address', '--workers', '--quiet',
    ):  # fmt: skip
        assert option in text
    examples = [
        line.split('cfg-embed ', 1)[1].split() for line in text.splitlines() if line.startswith('  ') and 'cfg-embed ' in line
    ]
    assert len(examples) >= 6
    for example in examples:
        assert build_parser().parse_args(example).out


def test_the_parser_and_the_function_have_the_same_defaults():
    import inspect

    parsed = vars(build_parser().parse_args(['input', '--out', 'store']))
    for function in (TextEmbedder.__init__, embed_corpus):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in parsed and name not in ('model_types', 'pooled', 'tokens', 'out', 'column'):
                assert parsed[name] == parameter.default, name


def test_two_processes_at_once_write_what_one_writes(captions, tmp_path):
    """As under torchrun, which sets these variables."""
    assert embed(captions, tmp_path / 'one', '--quiet') == 0
    command = [
        sys.executable,
        '-m',
        'classifier_free_guidance_pytorch.corpus.command',
        str(captions),
        '--out',
        str(tmp_path / 'two'),
    ]
    command += ['--model-types', 'mini', '--shard-rows', '2', '--quiet']
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, 'RANK': rank, 'WORLD_SIZE': '2'}, stderr=subprocess.PIPE, text=True
        )
        for rank in '10'
    ]
    for process in ranks:
        _, printed = process.communicate()
        assert process.returncode == 0, printed
    assert files_of(tmp_path / 'two') == files_of(tmp_path / 'one')


@pytest.fixture
def ray_on_a_busy_machine(monkeypatch):
    """Ray gives its own processes half a minute to start, and its workers the time that no other process wants.

    Both are little where other tests run beside it. Its actors compute on one thread, and so does what they are compared with:
    sums depend on it in their last bit.
    """
    monkeypatch.setenv('RAY_raylet_start_wait_time_s', '280')
    monkeypatch.setenv('RAY_worker_niceness', '0')
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(900)  # Ray starts half a dozen processes, which a busy machine takes its time for
def test_a_local_cluster_of_ray_writes_what_one_process_writes(captions, tmp_path, ray_on_a_busy_machine):
    """And the embedder is a class that Ray Data maps batches with: the page's own block, in the same cluster."""
    import ray

    assert embed(captions, tmp_path / 'one', '--quiet') == 0
    ray.init('local', num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    try:
        assert embed(captions, tmp_path / 'ray', '--quiet', '--engine', 'ray') == 0
        (block,) = code_of('python ray')
        names = {'TextEmbedder': TextEmbedder, 'texts': TEXTS}
        exec(compile(block, 'docs/corpus.md', 'exec'), names)
        mapped = names['done']
    finally:
        ray.shutdown()
    assert files_of(tmp_path / 'ray') == files_of(tmp_path / 'one')
    encoder = build_encoder('english')
    assert len(mapped) == len([text for text in TEXTS if text])
    for row in mapped:
        expected = encoder.encode([row['caption']])
        torch.testing.assert_close(torch.tensor(row['english_pooled']), expected.pooled[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(row['english_tokens']), expected.tokens[0], rtol=1e-4, atol=1e-5)


def test_a_cluster_that_is_not_there(captions, tmp_path, capsys, monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError('Could not find any running Ray instance')

    monkeypatch.setattr(ray, 'init', refuse)
    assert embed(captions, tmp_path / 'store', '--quiet', '--engine', 'ray', '--ray-address', '10.0.0.1:6379') == 2
    assert "no Ray cluster answers at ray_address='10.0.0.1:6379' (Could not find" in capsys.readouterr().err


@pytest.mark.parametrize(('variable', 'expected'), [(None, 'local'), ('10.0.0.1:6379', '10.0.0.1:6379')])
def test_without_an_address_the_variable_or_a_cluster_of_its_own(captions, tmp_path, monkeypatch, variable, expected):
    """Ray itself would join what last ran on this machine, and fail where that is gone."""
    import ray

    asked = []

    def refuse(address, **options):
        asked.append(address)
        raise ConnectionError('stopped here')

    monkeypatch.setattr(ray, 'init', refuse)
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    if variable:
        monkeypatch.setenv('RAY_ADDRESS', variable)
    assert embed(captions, tmp_path / 'store', '--quiet', '--engine', 'ray') == 2
    assert asked == [expected]


def test_ray_that_is_not_installed(captions, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert embed(captions, tmp_path / 'store', '--quiet', '--engine', 'ray') == 2
    assert "pip install 'classifier-free-guidance-pytorch[ray]'" in capsys.readouterr().err
