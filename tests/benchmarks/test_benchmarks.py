"""The benchmark suite with tiny networks: in every part the two sides agree. Nothing is asked of the times."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import by_hand, timing
from benchmarks.__main__ import main
from benchmarks.bodies import BODIES, noisy
from benchmarks.encoders import WordEncoder, save_clip, save_t5, texts
from benchmarks.networks import KINDS, pair
from benchmarks.parts import ON_GPU, PARTS, dispatch, load
from benchmarks.report import PAGE, filled, report
from benchmarks.results import Bar, Result, assert_equal, counted, environment, timed
from benchmarks.settings import Settings
from benchmarks.timing import Pace, Spread, in_turn
from tests.releases import OLDER_OPEN_CLIP

TINY = Settings(Pace(rounds=1, sample_seconds=1e-5, warm_up=1), tiny=True, quiet=True)
ELSEWHERE = ('imports', 'sampling', 'compile_large')  # these start processes, or are rehearsed by `scripts/gpu --dry-run`
IN_PROCESS = [part for part in (*PARTS, *ON_GPU) if part not in ELSEWHERE]


@pytest.mark.parametrize('part', IN_PROCESS)
def test_both_sides_of_a_part_agree(part):
    figures = list(load(part).measure(TINY))
    assert figures
    assert all(figure.value > 0 and figure.base > 0 for figure in figures)


@pytest.mark.parametrize('kind', KINDS)
def test_a_side_that_differs_is_not_timed(kind):
    from benchmarks.parts.steps import assert_same, ways

    ours, theirs = pair('MLP', kind, WordEncoder(16), tiny=True)
    with torch.no_grad():
        next(iter(theirs.text_conditioner.parameters())).normal_()
    with pytest.raises(AssertionError, match='the MLP, texts'):
        assert_same(ways(ours, theirs, 2, TINY), 'the MLP', TINY)


def test_a_training_step_that_differs_is_not_timed():
    from benchmarks.parts.training import assert_same_step, steps

    calls, ours, theirs = steps('MLP', 'film', TINY)
    with torch.no_grad():
        theirs.last.weight.mul_(2)
    with pytest.raises(AssertionError):
        assert_same_step(calls, ours, theirs, TINY)


@pytest.mark.parametrize('name', BODIES)
def test_the_text_and_its_absence_matter_to_every_network(name):
    ours, theirs = pair(name, 'film', WordEncoder(16), tiny=True)
    TINY.place(ours, theirs)
    x, t = noisy(ours, 2)
    encodings = ours.encode_texts(texts(2))
    cond, null = theirs(x, t, encodings, False), theirs(x, t, encodings, True)
    assert (cond - null).abs().max() > 1e-3
    assert_equal(by_hand.guided_batched(theirs, x, t, encodings, 2.0), 2 * cond - null, name)


def test_the_unet_has_fifteen_million_parameters():
    assert sum(weight.numel() for weight in BODIES['U-Net']().parameters()) == pytest.approx(15e6, rel=0.1)


@pytest.mark.skipif(OLDER_OPEN_CLIP, reason='open_clip_torch 2 reads no model from a folder')
def test_every_way_to_sample_draws_the_same(tmp_path):
    from benchmarks.sampling_worker import WAYS, add_plain_twin, build, obey

    setup = {'t5': str(save_t5(tmp_path / 't5', True)), 'clip': str(save_clip(tmp_path / 'clip', True))}
    setup |= {'weights': str(tmp_path), 'tiny': True, 'device': 'cpu'}
    network = build('MLP', setup)
    add_plain_twin('MLP', network, True)
    request = {'network': 'MLP', 'texts': texts(2), 'steps': 3}
    samples = {}
    for way in WAYS:
        obey({'MLP': network}, {**request, 'way': way, 'save': str(tmp_path / 'sample.pt')})
        samples[way] = torch.load(tmp_path / 'sample.pt')
    scale = float(samples['by hand'].abs().max())
    for way, sample in samples.items():
        assert_equal(sample, samples['by hand'], way, rtol=1e-4, atol=1e-4 * scale)


def test_importing_loads_no_model_library():
    from benchmarks.parts.imports import seconds_to_import

    assert min(seconds_to_import('classifier_free_guidance_pytorch')) > 0


def test_calls_are_timed_in_turn_in_every_order():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in 'abc'}
    found = in_turn(calls, Pace(rounds=6, sample_seconds=1e-9, warm_up=1))
    assert all(len(measured) == 6 for measured in found.values())
    rounds = [''.join(order[start : start + 3]) for start in range(3, len(order), 3)]
    assert rounds == ['abc', 'bca', 'cab', 'cba', 'acb', 'bac']


def test_a_machine_that_slows_down_leaves_the_ratios_alone(monkeypatch):
    clock = iter(range(10**6))
    now = [0.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def takes(units):
        def call():
            now[0] += units * 1.001 ** next(clock)

        return call

    found = in_turn({'ours': takes(3.0), 'theirs': takes(2.0)}, Pace(rounds=20, sample_seconds=1e-9))
    assert timing.ratios(found['ours'], found['theirs']).median == pytest.approx(1.5, rel=0.01)
    assert max(found['ours']) > 1.02 * min(found['ours'])


def test_a_spread_is_that_of_its_values():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 1.0, 2.0, 4.0, 5.0, 5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize(('bar', 'met'), [(Bar('at most', 1.0), True), (Bar('at least', 1.0), True), (Bar('below', 1.0), False)])
def test_a_bar_says_whether_it_was_met(bar, met):
    figure = timed('case', 'way', 'other', [2.0, 2.0], [2.0, 2.0], bar)
    assert figure.verdict == ('met' if met else 'missed')


def test_results_are_read_as_they_were_written_and_fill_the_page(tmp_path):
    figures = [timed('MLP, film', 'texts', 'two passes by hand', [3.0, 3.0], [2.0, 2.0], Bar('at most', 1.05), 'a note')]
    figures.append(counted('MLP, film', 'texts', 'by hand', 2**20, 2**21, 'bytes'))
    stated = {'dtype': 'torch.float32', 'minutes': 1}
    result = Result('steps', 'python -m benchmarks steps', figures, stated, environment(torch.device('cpu')))
    assert Result.read(result.write(tmp_path / 'cpu')) == result
    page = tmp_path / 'performance.md'
    page.write_text(PAGE.read_text(encoding='utf-8'), encoding='utf-8')
    report(tmp_path, page, tmp_path / 'chart.png')
    written = page.read_text(encoding='utf-8')
    assert '| MLP, film: texts, against two passes by hand | at most 1.05 | 1.500 | 1.500 to 1.500 | missed |' in written
    assert '| MLP, film | texts | by hand | 0.500 |  |  | 1 MiB | 2 MiB |  |' in written
    assert '`python -m benchmarks steps`' in written
    assert (tmp_path / 'chart.png').stat().st_size > 1000


def test_the_page_has_a_place_for_every_part():
    page = PAGE.read_text(encoding='utf-8')
    for name in ('bars', 'gpu', *PARTS):
        assert filled(page, {name: 'here'}).count('here\n<!-- end') == 1


def test_the_command_line_runs_what_it_is_asked_for(tmp_path, capsys):
    main(['layers', '--tiny', '--quiet', '--device', 'cpu', '--out', str(tmp_path)])
    stored = json.loads((tmp_path / 'cpu' / 'layers.json').read_text())
    assert stored['command'] == f'python -m benchmarks layers --tiny --quiet --device cpu --out {tmp_path}'
    assert stored['environment']['versions']['torch'].partition('+')[0] == torch.__version__.partition('+')[0]
    assert 'layers' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(['stairs'])
    assert 'no part is called stairs' in capsys.readouterr().err


def test_what_was_measured_before_an_interruption_is_kept(tmp_path, monkeypatch):
    def measure(settings):
        yield counted('case', 'way', 'other', 1.0, 2.0, 'bytes')
        raise KeyboardInterrupt

    monkeypatch.setattr(load('layers'), 'measure', measure)
    main(['layers', '--tiny', '--quiet', '--device', 'cpu', '--out', str(tmp_path)])
    assert len(Result.read(tmp_path / 'cpu' / 'layers.json').figures) == 1


@torch.no_grad()
def test_a_guided_call_stays_within_its_files():
    calls = dispatch.calls_of(TINY)
    for way, most in dispatch.MOST.items():
        calls[way]()
        found = dispatch.count(calls[way])
        assert found.files <= most['files']
        assert found.moves <= most['moves']
